//! Fuzz bytes as a sequence of choices.

/// A place in an input; past its end all choices are 0.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// The choices that the bytes stand for.
    pub fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// Whether no choice is left.
    pub fn is_done(&self) -> bool {
        self.0.is_empty()
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u8) -> u8 {
        self.byte() % end.max(1)
    }

    /// A number that is mostly small and sometimes at an edge.
    pub fn number(&mut self) -> u64 {
        match self.byte() {
            255 => u64::MAX,
            254 => u64::from(u32::MAX),
            small => u64::from(small % 16),
        }
    }

    /// At most `len` bytes.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }
}
