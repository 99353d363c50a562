//! Flat images of regions: what memory must hold, computed by the plainest of means.

use ropeway::{Region, Result};

/// Bytes that an image can be held against.
pub trait Bytes {
    /// How many.
    fn size(&self) -> u64;
    /// Copies bytes out.
    ///
    /// # Errors
    /// What the region said.
    fn read(&self, at: u64, into: &mut [u8]) -> Result<()>;
    /// Copies bytes in.
    ///
    /// # Errors
    /// What the region said.
    fn write(&self, at: u64, from: &[u8]) -> Result<()>;
}

impl Bytes for Region {
    fn size(&self) -> u64 {
        Region::len(self)
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Result<()> {
        Region::read(self, at, into)
    }

    fn write(&self, at: u64, from: &[u8]) -> Result<()> {
        Region::write(self, at, from)
    }
}

/// All bytes of a region, as they should be.
#[derive(Clone, PartialEq, Eq)]
pub struct Image(Vec<u8>);

impl Image {
    /// Fills a region with bytes that differ from place to place and from seed to seed.
    pub fn fill(region: &impl Bytes, seed: u64) -> Self {
        let image = Self(pattern(seed, region.size() as usize));
        region.write(0, &image.0).expect("the image is as long as the region");
        image
    }

    /// What a region holds now.
    pub fn of(region: &impl Bytes) -> Self {
        let mut bytes = vec![0; region.size() as usize];
        region.read(0, &mut bytes).expect("as long as the region");
        Self(bytes)
    }

    /// What a transfer should have done.
    pub fn copy(&mut self, at: u64, from: &Self, from_at: u64, len: u64) {
        let (at, from_at, len) = (at as usize, from_at as usize, len as usize);
        self.0[at..at + len].copy_from_slice(&from.0[from_at..from_at + len]);
    }

    /// Checks every byte of a region: those that should have come, and all others, which nobody may touch.
    ///
    /// # Panics
    /// Naming the first byte that differs.
    pub fn check(&self, region: &impl Bytes, what: &str) {
        let now = Self::of(region);
        if now == *self {
            return;
        }
        let at = self.0.iter().zip(&now.0).position(|(should, is)| should != is).expect("they differ");
        let count = self.0.iter().zip(&now.0).filter(|(should, is)| should != is).count();
        panic!(
            "{what}: byte {at} is {:#04x} and should be {:#04x}; {count} bytes differ",
            now.0[at], self.0[at]
        );
    }

    /// Whether every byte of a region is as in one of the images, place by place: a transfer that was given up may have
    /// moved any part, or have blanked what nobody vouched for, but nothing else.
    ///
    /// # Panics
    /// Naming the first byte that is none's.
    pub fn check_any(images: &[&Self], region: &impl Bytes, what: &str) {
        let now = Self::of(region);
        if images.iter().any(|image| **image == now) {
            return;
        }
        let fits = |at: &usize| images.iter().any(|image| image.0[*at] == now.0[*at]);
        if let Some(at) = (0..now.0.len()).find(|at| !fits(at)) {
            panic!("{what}: byte {at} is {:#04x}, neither old nor new", now.0[at]);
        }
    }

    /// As long as this one, all zeros.
    #[must_use]
    pub fn blanked(&self) -> Self {
        Self(vec![0; self.0.len()])
    }
}

/// `len` bytes that differ from place to place and from seed to seed.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while bytes.len() < len {
        // xorshift64: plain, and quick enough for an unoptimised build.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
