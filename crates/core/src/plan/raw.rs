//! Raw lists: `(local, remote, length)` over whole regions, for callers that know better than block ids.

use std::ops::Range;

use super::once::Target;
use crate::runs::MAX_RUN_BYTES;
use crate::{Cursor, Error, ErrorKind, Limits, Result, Run};

/// One copy of a raw list. Offsets count from the start of each side's block.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RawCopy {
    /// Byte offset on our side.
    pub local: u64,
    /// Byte offset on the peer's side.
    pub remote: u64,
    /// Bytes. Copies of no bytes are left out.
    pub len: u64,
}

/// Where one side's bytes lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    /// Offset in the region.
    pub(super) base: u64,
    /// Bytes.
    pub(super) bytes: u64,
}

/// A checked, merged list, or a window of it.
#[derive(Clone, Debug)]
pub(super) struct RawRuns {
    runs: Box<[Run]>,
    /// Bytes up to and with each run.
    ends: Box<[u64]>,
    window: Range<u64>,
    first: Cursor,
    one_sided: bool,
    total: u64,
    descriptors: u64,
}

impl RawRuns {
    /// Checks and merges. `remote` is `None` for the side that knows itself only.
    pub(super) fn new(
        copies: impl ExactSizeIterator<Item = RawCopy>,
        local: Extent,
        remote: Option<Extent>,
        target: Option<Target>,
        limits: &Limits,
    ) -> Result<Self> {
        if copies.len() as u64 > u64::from(limits.runs_per_raw_plan) {
            return Err(Error::new(
                ErrorKind::Full,
                "raw plan",
                format!("{} copies; limit runs_per_raw_plan is {}", copies.len(), limits.runs_per_raw_plan),
            ));
        }
        let mut merged: Vec<RawCopy> = Vec::with_capacity(copies.len());
        let mut descriptors = 0;
        for copy in copies.filter(|copy| copy.len > 0) {
            descriptors += 1;
            inside("local", copy.local, copy.len, local)?;
            if let Some(remote) = remote {
                inside("remote", copy.remote, copy.len, remote)?;
            }
            match merged.last_mut() {
                Some(last)
                    if last.local + last.len == copy.local
                        && (remote.is_none() || last.remote + last.len == copy.remote) =>
                {
                    last.len += copy.len;
                }
                _ => merged.push(copy),
            }
        }
        match target {
            Some(Target::Local) => once(&merged, Target::Local, |copy| copy.local)?,
            Some(Target::Remote) => once(&merged, Target::Remote, |copy| copy.remote)?,
            None => {}
        }
        Self::split(&merged, local.base, remote.map(|remote| remote.base), descriptors)
    }

    /// Places the copies in their regions and cuts those that are longer than a run can be.
    fn split(merged: &[RawCopy], local: u64, remote: Option<u64>, descriptors: u64) -> Result<Self> {
        let mut runs = Vec::with_capacity(merged.len());
        let mut ends = Vec::with_capacity(merged.len());
        let mut total: u64 = 0;
        for copy in merged {
            let mut done = 0;
            while done < copy.len {
                let len = (copy.len - done).min(MAX_RUN_BYTES.into());
                runs.push(Run {
                    local: local + copy.local + done,
                    remote: remote.map_or(0, |base| base + copy.remote + done),
                    len: len as u32,
                    ..Run::default()
                });
                done += len;
                total = total.checked_add(len).ok_or_else(|| {
                    Error::new(
                        ErrorKind::OutOfBounds,
                        "raw plan",
                        "the list's bytes pass 2^64; plan fewer at a time",
                    )
                })?;
                ends.push(total);
            }
        }
        let count = runs.len() as u64;
        Ok(Self {
            runs: runs.into(),
            ends: ends.into(),
            window: 0..total,
            first: Cursor::default(),
            one_sided: remote.is_none(),
            total: count,
            descriptors,
        })
    }

    /// Only the bytes of `window`, which lies inside the whole.
    pub(super) fn narrow(mut self, window: Range<u64>) -> Self {
        if window == self.window {
            return self;
        }
        let (first, last) = (self.seek(window.start), self.seek(window.end));
        self.total = match first.part == last.part {
            true => u64::from(last.byte > first.byte),
            false => u64::from(last.part - first.part) + u64::from(last.byte > 0),
        };
        self.first = first;
        self.window = window;
        self
    }

    pub(super) fn total_bytes(&self) -> u64 {
        self.window.end - self.window.start
    }

    pub(super) fn total_runs(&self) -> u64 {
        self.total
    }

    pub(super) fn descriptors(&self) -> u64 {
        self.descriptors
    }

    pub(super) fn runs(&self) -> &[Run] {
        &self.runs
    }

    pub(super) fn fill(&self, at: &mut Cursor, out: &mut [Run], bytes: u64) -> usize {
        if self.window.start > 0 && *at == Cursor::default() {
            *at = self.first;
        }
        let before = (at.part as usize).checked_sub(1).and_then(|last| self.ends.get(last));
        let position = before.copied().unwrap_or(0) + at.byte;
        let mut budget = bytes.min(self.window.end.saturating_sub(position));
        let runs = self.runs.get(at.part as usize..).unwrap_or(&[]);
        let mut filled = 0;
        for (run, out) in runs.iter().zip(out) {
            if budget == 0 {
                break;
            }
            let left = u64::from(run.len) - at.byte;
            let len = left.min(budget);
            let remote = if self.one_sided { 0 } else { run.remote + at.byte };
            *out = Run { local: run.local + at.byte, remote, len: len as u32, ..*run };
            filled += 1;
            budget -= len;
            if len < left {
                at.byte += len;
                break;
            }
            at.byte = 0;
            at.part += 1;
        }
        filled
    }

    pub(super) fn seek(&self, byte: u64) -> Cursor {
        let byte = byte.saturating_add(self.window.start).min(self.window.end);
        let part = self.ends.partition_point(|end| *end <= byte);
        let begin = part.checked_sub(1).map_or(0, |last| self.ends[last]);
        Cursor { part: part as u32, byte: byte - begin, ..Cursor::default() }
    }
}

fn inside(side: &str, at: u64, len: u64, extent: Extent) -> Result<()> {
    match at.checked_add(len) {
        Some(end) if end <= extent.bytes => Ok(()),
        _ => Err(Error::new(
            ErrorKind::OutOfBounds,
            "raw plan",
            format!("{side} copy of {len} bytes at {at} passes the end ({})", extent.bytes),
        )),
    }
}

fn once(copies: &[RawCopy], target: Target, at: impl Fn(&RawCopy) -> u64) -> Result<()> {
    if copies.is_sorted_by(|a, b| at(a) + a.len <= at(b)) {
        return Ok(());
    }
    let mut places: Vec<(u64, u64)> = copies.iter().map(|copy| (at(copy), copy.len)).collect();
    places.sort_unstable();
    match places.windows(2).find(|pair| pair[0].0 + pair[0].1 > pair[1].0) {
        None => Ok(()),
        Some(pair) => Err(Error::new(
            ErrorKind::OutOfBounds,
            "raw plan",
            format!("{} byte {} would be written twice", target.name(), pair[1].0),
        )),
    }
}
