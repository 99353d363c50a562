//! Runs: what a plan expands to, and the trait through which a transport expands it, a few hundred at a time.

use bytes::BytesMut;

/// One merged copy: `len` bytes that lie in one piece on both sides. Offsets count from the start of the regions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Run {
    /// Byte offset in the local region.
    pub local: u64,
    /// Byte offset in the remote region. Not used by [`Runs`] that know one side only.
    pub remote: u64,
    /// Bytes; at most [`MAX_RUN_BYTES`].
    pub len: u32,
    /// Index into the batch's list of local regions.
    pub local_region: u16,
    /// Index into the batch's list of remote regions.
    pub remote_region: u16,
}

/// Longer runs are split.
pub const MAX_RUN_BYTES: u32 = 1 << 30;

/// A place in an expansion. What the words mean is known only to the [`Runs`] that moves it; start from the default.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cursor {
    /// Which part of the plan (or entry of a raw list).
    pub part: u32,
    /// Which span of merged blocks of the part's group.
    pub span: u32,
    /// Which block of the span, where blocks are not expanded whole.
    pub block: u32,
    /// Which row of the block's rectangle, where rows are not contiguous.
    pub row: u32,
    /// Bytes already handed out of the piece that the other words name.
    pub byte: u64,
}

/// A checked plan's copies, merged and expanded lazily, always in the same order.
///
/// Both sides of a transfer agree on the order of bytes, not on the runs: the expansion that knows only one side
/// merges by that side alone.
pub trait Runs: Send + Sync {
    /// Bytes in all.
    fn total_bytes(&self) -> u64;

    /// Merged runs in all, as [`Self::fill`] yields them when no byte budget cuts a run.
    fn total_runs(&self) -> u64;

    /// Writes the next runs from `at` into `out` and moves `at` on. Returns how many; 0 means that all were handed
    /// out. Stops when `out` is full or `bytes` bytes are handed out, cutting the last run short if need be.
    /// Allocates nothing.
    fn fill(&self, at: &mut Cursor, out: &mut [Run], bytes: u64) -> usize;

    /// The cursor from which exactly the first `byte` bytes are left out.
    fn seek(&self, byte: u64) -> Cursor;

    /// Appends the compact request by which the other side can make its own expansion of the same bytes.
    fn encode(&self, out: &mut BytesMut);
}
