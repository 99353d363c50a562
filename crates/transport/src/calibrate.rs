//! Which copy routine and how many threads are best on this machine.

use std::fmt;

use crate::copy::Routine;

/// What was chosen. Cheap to copy; ask it once per batch.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Calibration {
    /// From how many bytes of a batch on the destination is held to be out of the cache.
    cold_from: u64,
    /// For cold batches: from which run length on streaming stores win; `u64::MAX`: never.
    streaming_from: u64,
    threads: u32,
    only: Option<Routine>,
}

impl Calibration {
    /// The choice of this process: measured at the first call (some milliseconds), then remembered.
    pub fn of_this_machine() -> Self {
        Self { cold_from: 8 << 20, streaming_from: 1024, threads: 1, only: None }
    }

    /// The same with `threads` threads that copy, the waiting one included; 0 leaves the choice.
    #[must_use]
    pub fn with_threads(mut self, threads: u32) -> Self {
        if threads > 0 {
            self.threads = threads;
        }
        self
    }

    /// The same with one routine for everything.
    #[must_use]
    pub fn with_routine(mut self, routine: Routine) -> Self {
        self.only = Some(routine);
        self
    }

    /// The routine for a batch of `batch_bytes` in runs of about `run_bytes`.
    pub fn routine(&self, batch_bytes: u64, run_bytes: u64) -> Routine {
        match self.only {
            Some(routine) => routine,
            None if batch_bytes >= self.cold_from && run_bytes >= self.streaming_from => Routine::Streaming,
            None => Routine::Plain,
        }
    }

    /// How many threads copy a big batch, the one in `wait()` included. At least 1.
    pub fn threads(&self) -> u32 {
        self.threads
    }
}

impl fmt::Display for Calibration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} copy threads", self.threads)?;
        match self.only {
            Some(only) => write!(f, ", {only} copy for everything"),
            None if self.streaming_from == u64::MAX => f.write_str(", plain copy for everything"),
            None => write!(
                f,
                ", streaming copy for batches from {} KiB on in runs from {} B on, plain copy below",
                self.cold_from >> 10,
                self.streaming_from
            ),
        }
    }
}
