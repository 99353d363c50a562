//! What a half counts, for vLLM's connector statistics.
//!
//! The names are the suffixes of vLLM's NIXL connector, so that `vllm:ropeway_…` stands where `vllm:nixl_…` stood and an
//! alias is a change of prefix.

use std::time::Duration;

use serde::Serialize;

/// Samples of a kind that are kept between two calls of [`Stats::take`]; more are counted, not kept.
const SAMPLES_MAX: usize = 65_536;

/// What was seen since it was last taken. Each histogram has a sample for every finished load.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// From the first submit to the last byte, in seconds.
    pub xfer_time_seconds: Vec<f64>,
    /// Planning and submitting, in seconds.
    pub post_time_seconds: Vec<f64>,
    /// Bytes of a load.
    pub bytes_transferred: Vec<u64>,
    /// Runs that they were moved in.
    pub num_descriptors: Vec<u64>,
    /// Loads that failed while they ran or before they began.
    pub num_failed_transfers: u64,
    /// Leases that were not granted although they were told.
    pub num_failed_notifications: u64,
    /// Instances that could not be reached or did not fit.
    pub num_failed_handshakes: u64,
    /// Lent requests whose blocks nobody fetched in time.
    pub num_kv_expired_reqs: u64,
    /// Claims that came after the end of the lease.
    pub num_notifications_after_expiry: u64,
    /// Samples that were not kept.
    pub dropped_samples: u64,
}

/// One load that ended well.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Loaded {
    /// From the first submit to the last byte.
    pub elapsed: Duration,
    /// Planning and submitting.
    pub posting: Duration,
    /// Its bytes.
    pub bytes: u64,
    /// Runs that they were moved in.
    pub runs: u64,
}

impl Stats {
    /// Notes a load.
    pub fn loaded(&mut self, load: Loaded) {
        if self.bytes_transferred.len() >= SAMPLES_MAX {
            self.dropped_samples += 1;
            return;
        }
        self.xfer_time_seconds.push(load.elapsed.as_secs_f64());
        self.post_time_seconds.push(load.posting.as_secs_f64());
        self.bytes_transferred.push(load.bytes);
        self.num_descriptors.push(load.runs);
    }

    /// What was seen, leaving nothing.
    pub fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    /// Whether nothing was seen.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_kept_up_to_a_limit_and_taken_once() {
        let mut stats = Stats::default();
        (0..SAMPLES_MAX + 2).for_each(|_| stats.loaded(Loaded { bytes: 7, ..Loaded::default() }));
        let taken = stats.take();
        assert_eq!((taken.bytes_transferred.len(), taken.dropped_samples), (SAMPLES_MAX, 2));
        assert!(stats.is_empty() && !taken.is_empty());
    }
}
