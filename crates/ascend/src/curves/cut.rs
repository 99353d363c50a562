//! Into which pieces a merged run is cut, so that no link is given sizes at which it is slower.
//!
//! Most curves rise with the block size; some have a dip: RoCE in communicator mode on an A3 moves blocks of 16 KiB at
//! twice the speed of blocks of 32 KiB. A run that merging has made that long goes in several pieces.

use super::{Curve, Direction, Link, SIZES};

/// A cut must save this share of the time: less is noise of the measurement, and pieces cost us something, too.
const GAIN_MIN: f64 = 0.03;
/// Pieces begin at multiples of this, counted from the start of the run.
const ALIGNMENT: u64 = 4096;
/// No more different sizes are kept; no published curve needs half as many.
const STEPS_MAX: usize = 12;
/// Lengths at which a curve is looked at between one size and its double.
const PER_OCTAVE: u32 = 8;

/// For one link and direction: the size near which pieces of a run of a given length should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cut {
    /// From which length on, which size; ascending. A size of `u64::MAX` means whole.
    steps: [(u64, u64); STEPS_MAX],
    len: usize,
}

impl Cut {
    /// Cuts nothing.
    pub const WHOLE: Self = Self { steps: [(0, u64::MAX); STEPS_MAX], len: 1 };

    /// What suits a curve. Takes some microseconds: made once a link.
    pub fn of(curve: &Curve) -> Self {
        let mut cut = Self::WHOLE;
        for len in lengths() {
            let (_, last) = cut.steps[cut.len - 1];
            let size = best(curve, len, last);
            if size != last && cut.len < STEPS_MAX {
                cut.steps[cut.len] = (len, size);
                cut.len += 1;
            }
        }
        cut
    }

    /// How long each piece of a run of `len` bytes should be; the last one takes what is left. `len` itself when the run
    /// goes whole.
    #[inline]
    pub fn piece(&self, len: u64) -> u64 {
        if self.len == 1 {
            return len;
        }
        let from = self.steps[..self.len].partition_point(|&(from, _)| from <= len);
        let (_, size) = self.steps[from.saturating_sub(1)];
        piece(len, size)
    }

    #[cfg(test)]
    pub(super) fn len_of_steps(&self) -> usize {
        self.len
    }

    /// How many pieces a run of `len` bytes makes.
    pub fn pieces(&self, len: u64) -> u64 {
        match self.piece(len) {
            0 => 0,
            piece => len.div_ceil(piece),
        }
    }
}

/// Equal pieces of about `size` bytes.
fn piece(len: u64, size: u64) -> u64 {
    let pieces = match size {
        u64::MAX => 1,
        _ => (len / size) + u64::from(len % size >= size / 2),
    };
    match pieces {
        0 | 1 => len,
        _ => len.div_ceil(pieces).next_multiple_of(ALIGNMENT).min(len),
    }
}

/// The size of the fastest pieces, or whole where that is hardly slower; `last`, the choice for shorter runs, is kept
/// while it is not worse than whole and hardly slower than the best.
fn best(curve: &Curve, len: u64, last: u64) -> u64 {
    let time = |size| {
        let piece = piece(len, size);
        (len / piece) as f64 * curve.seconds(piece) + curve.seconds(len % piece)
    };
    let whole = time(u64::MAX);
    let mut best = (whole * (1.0 - GAIN_MIN), u64::MAX);
    for size in SIZES {
        let seconds = time(size);
        if seconds < best.0 {
            best = (seconds, size);
        }
    }
    let kept = time(last);
    if kept <= whole && kept * (1.0 - GAIN_MIN) <= best.0 { last } else { best.1 }
}

/// From the smallest published size to four times the largest; beyond, every curve is flat.
fn lengths() -> impl Iterator<Item = u64> {
    let octaves = (SIZES[SIZES.len() - 1] / SIZES[0]).ilog2() + 2;
    (0..=octaves * PER_OCTAVE)
        .map(|step| (SIZES[0] as f64 * (f64::from(step) / f64::from(PER_OCTAVE)).exp2()).round() as u64)
}

/// The cuts of one link in every direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cuts([Cut; Direction::ALL.len()]);

impl Cuts {
    /// Cuts nothing: for links without published figures.
    pub const WHOLE: Self = Self([Cut::WHOLE; Direction::ALL.len()]);

    /// Those of a link; what is not published goes whole.
    pub fn of(link: Link) -> Self {
        Self(
            Direction::ALL.map(|direction| link.curve(direction).map_or(Cut::WHOLE, |curve| Cut::of(&curve))),
        )
    }

    /// That of a direction.
    pub fn get(&self, direction: Direction) -> &Cut {
        &self.0[direction as usize]
    }
}
