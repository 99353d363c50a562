//! How a transfer ended, small enough to be copied on the hot path.

use std::fmt;

/// Which way the bytes of a transfer go.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Op {
    /// From the peer's blocks into ours.
    Read,
    /// From our blocks into the peer's.
    Write,
}

/// What a lease, or an export of a region, lets a peer do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Rights {
    /// Peers may read the blocks.
    Read,
    /// Peers may write the blocks.
    Write,
}

impl Rights {
    /// Whether a transfer of this kind may use a lease with these rights.
    pub fn allow(self, op: Op) -> bool {
        matches!((self, op), (Self::Read, Op::Read) | (Self::Write, Op::Write))
    }
}

/// Whether memory may still be touched on behalf of a transfer that has ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Quiet {
    /// Not one byte will be read or written there on its behalf again.
    Yes,
    /// Only tearing the link down ends it; until then the blocks stay in quarantine.
    AfterClose,
}

/// Why a transfer ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum StatusKind {
    /// Every byte is in place.
    Completed,
    /// The caller asked for the end.
    Cancelled,
    /// `abandon_after` passed.
    Abandoned,
    /// The lease was released, revoked or expired before the last byte was confirmed.
    StaleLease,
    /// The peer refused: rights, bounds, an unknown region or cache.
    Denied,
    /// The peer has no room for the request now.
    PeerFull,
    /// The peer's process is proven dead.
    PeerGone,
    /// The peer's memory was not there at run `run`.
    PeerUnmapped,
    /// The connection to the peer ended.
    LinkLost,
    /// The region or engine was closed under the transfer.
    Closed,
    /// The peer broke the protocol.
    Protocol,
    /// The operating system or the device refused; `native` is its number.
    Native,
    /// A worker panicked, or a transport dropped the batch: nothing is known of its last bytes.
    Indeterminate,
}

/// How a transfer ended, and what may still happen to its memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Status {
    /// Why it ended.
    pub kind: StatusKind,
    /// Whether our own blocks are quiet.
    pub local: Quiet,
    /// Whether the peer's blocks are quiet. `Yes` rests on the peer's word or on proof of its death.
    pub remote: Quiet,
    /// The number that the operating system or the device gave; 0 where there is none.
    pub native: i32,
    /// The first merged run that was not confirmed; the number of runs when all were.
    pub run: u32,
}

impl Status {
    /// Ended as `kind`, with nothing touching either side any more.
    pub const fn quiet(kind: StatusKind) -> Self {
        Self { kind, local: Quiet::Yes, remote: Quiet::Yes, native: 0, run: 0 }
    }

    /// Every byte in place, both sides quiet.
    pub const COMPLETED: Self = Self::quiet(StatusKind::Completed);

    /// Nothing is known: both sides stay in quarantine until the link is closed.
    pub const INDETERMINATE: Self = Self {
        kind: StatusKind::Indeterminate,
        local: Quiet::AfterClose,
        remote: Quiet::AfterClose,
        native: 0,
        run: 0,
    };

    /// Whether every byte is in place.
    pub const fn is_completed(self) -> bool {
        matches!(self.kind, StatusKind::Completed)
    }

    /// The same end, with the remote side not proven quiet.
    pub const fn remote_after_close(mut self) -> Self {
        self.remote = Quiet::AfterClose;
        self
    }

    /// The same end, with the number that the operating system or the device gave.
    pub const fn with_native(mut self, native: i32) -> Self {
        self.native = native;
        self
    }

    /// The same end, at the given merged run.
    pub const fn with_run(mut self, run: u32) -> Self {
        self.run = run;
        self
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
        })
    }
}
