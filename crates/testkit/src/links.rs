//! What the tests of links share that is no transport's own: patience, names, plans that are plain lists.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{BufMut as _, BytesMut};
use ropeway_core::{Cursor, GrantId, RegionId, Run, Runs};

/// No test waits longer than this for anything.
pub const WATCHDOG: Duration = Duration::from_secs(60);

/// When a test has waited for too long.
pub fn soon() -> Instant {
    Instant::now() + WATCHDOG
}

/// Waits until `test` holds.
///
/// # Panics
/// It does not within [`WATCHDOG`].
pub fn eventually(what: &str, test: impl Fn() -> bool) {
    let until = soon();
    while !test() {
        assert!(Instant::now() < until, "watchdog: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A region of some engine's.
pub fn region(slot: u32) -> RegionId {
    RegionId { slot, generation: 1 }
}

/// A grant of some owner's.
pub fn grant(slot: u32) -> GrantId {
    GrantId { slot, generation: 1 }
}

/// A plan that is a list of copies. Nothing is merged.
pub struct List(pub Vec<Run>);

impl List {
    /// All of both regions, in pieces of `len` bytes.
    pub fn pieces(total: u64, len: u32) -> Arc<Self> {
        Self::whole(total, len, |i, _| i)
    }

    /// The same, with the remote side's pieces in reverse order.
    pub fn reversed(total: u64, len: u32) -> Arc<Self> {
        Self::whole(total, len, |i, count| count - 1 - i)
    }

    fn whole(total: u64, len: u32, remote: impl Fn(u64, u64) -> u64) -> Arc<Self> {
        let (each, count) = (u64::from(len), total / u64::from(len));
        let run = |i| Run { local: i * each, remote: remote(i, count) * each, len, ..Run::default() };
        Arc::new(Self((0..count).map(run).collect()))
    }
}

impl Runs for List {
    fn total_bytes(&self) -> u64 {
        self.0.iter().map(|run| u64::from(run.len)).sum()
    }

    fn total_runs(&self) -> u64 {
        self.0.len() as u64
    }

    fn fill(&self, at: &mut Cursor, out: &mut [Run], bytes: u64) -> usize {
        let (mut count, mut left) = (0, bytes);
        while count < out.len() && left > 0 {
            let Some(whole) = self.0.get(at.part as usize) else { break };
            let len = (u64::from(whole.len) - at.byte).min(left);
            let (local, remote) = (whole.local + at.byte, whole.remote + at.byte);
            out[count] = Run { local, remote, len: len as u32, ..*whole };
            at.byte += len;
            left -= len;
            if at.byte == u64::from(whole.len) {
                *at = Cursor { part: at.part + 1, ..Cursor::default() };
            }
            count += 1;
        }
        count
    }

    fn seek(&self, mut byte: u64) -> Cursor {
        let mut part = 0;
        while let Some(run) = self.0.get(part as usize).filter(|run| u64::from(run.len) <= byte) {
            byte -= u64::from(run.len);
            part += 1;
        }
        Cursor { part, byte, ..Cursor::default() }
    }

    /// The remote side alone.
    fn encode(&self, out: &mut BytesMut) {
        for run in &self.0 {
            out.put_u64_le(run.remote);
            out.put_u32_le(run.len);
        }
    }
}
