//! Arrival bits: which of a lease's sequences have arrived, each counted once however often it is retried.

/// What a notification changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// The sequence arrived for the first time; so many have arrived now.
    New {
        /// Distinct sequences that have arrived.
        arrived: u32,
    },
    /// The sequence had arrived before; nothing changed.
    Duplicate,
    /// The sequence failed; a later arrival replaces that.
    Failed,
    /// A failure after the arrival, or once more; nothing changed.
    Ignored,
}

/// Two bits per sequence, grown to the highest one seen.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    words: Vec<Word>,
    arrived: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Word {
    arrived: u64,
    failed: u64,
}

impl Arrivals {
    /// Counts a notification; the caller has checked `sequence` against the limit.
    pub(super) fn record(&mut self, sequence: u32, failed: bool) -> Arrival {
        let (index, bit) = (sequence as usize / 64, 1_u64 << (sequence % 64));
        if index >= self.words.len() {
            self.words.resize(index + 1, Word::default());
        }
        let word = &mut self.words[index];
        match (failed, word.arrived & bit != 0, word.failed & bit != 0) {
            (false, true, _) => Arrival::Duplicate,
            (false, false, _) => {
                word.arrived |= bit;
                word.failed &= !bit;
                self.arrived += 1;
                Arrival::New { arrived: self.arrived }
            }
            (true, false, false) => {
                word.failed |= bit;
                Arrival::Failed
            }
            (true, ..) => Arrival::Ignored,
        }
    }

    /// Whether the sequence has arrived.
    pub(super) fn has(&self, sequence: u32) -> bool {
        self.words.get(sequence as usize / 64).is_some_and(|word| word.arrived >> (sequence % 64) & 1 == 1)
    }

    /// Whether the sequence's last word was a failure.
    pub(super) fn has_failed(&self, sequence: u32) -> bool {
        self.words.get(sequence as usize / 64).is_some_and(|word| word.failed >> (sequence % 64) & 1 == 1)
    }

    /// Distinct sequences that have arrived.
    pub(super) fn count(&self) -> u32 {
        self.arrived
    }
}
