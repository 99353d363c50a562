//! The boxed error, built cold where a caller asks; hot paths carry a [`Status`](crate::Status).

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use crate::{BlockId, Quiet};

/// The result of every fallible call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure it is. One table maps these to exceptions and metric labels.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The call itself is wrong, whatever the peer does; the message says how to mend it.
    ApiMisuse,
    /// A block id, offset or length passes the end of what it names, or a destination byte would be written twice.
    OutOfBounds,
    /// The two sides do not fit: names, layouts, dtypes, digests, versions.
    Mismatch,
    /// The lease or the id is of the past: released, revoked, expired, or of another incarnation.
    StaleLease,
    /// No right: a wrong secret, a read-only region, a block outside the lease, no ptrace permission.
    Denied,
    /// A named limit is reached; wait for room.
    Full,
    /// The peer's process is proven dead.
    PeerGone,
    /// The connection ended; the peer may live.
    LinkLost,
    /// A deadline or `abandon_after` passed.
    TimedOut,
    /// The caller asked for the end.
    Cancelled,
    /// This machine, build or transport cannot do it.
    Unsupported,
    /// The peer sent something that the protocol does not allow.
    Protocol,
    /// The operating system or device refused: memory, descriptors, ports.
    Resource,
    /// The engine, region or peer was closed.
    Closed,
    /// The engine belongs to the parent process; a forked child cannot use it.
    Forked,
    /// A worker panicked or an invariant broke; memory is quarantined.
    Internal,
}

/// Whether doing the same again can help.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Retry {
    /// It will fail again.
    Never,
    /// After room was made or a moment has passed.
    Later,
    /// After connecting to the peer anew.
    AfterReconnect,
}

impl ErrorKind {
    /// Every kind.
    pub const ALL: &[Self] = &[
        Self::ApiMisuse,
        Self::OutOfBounds,
        Self::Mismatch,
        Self::StaleLease,
        Self::Denied,
        Self::Full,
        Self::PeerGone,
        Self::LinkLost,
        Self::TimedOut,
        Self::Cancelled,
        Self::Unsupported,
        Self::Protocol,
        Self::Resource,
        Self::Closed,
        Self::Forked,
        Self::Internal,
    ];

    /// The kind's name in logs, metrics and JSON.
    pub const fn label(self) -> &'static str {
        match self {
            Self::ApiMisuse => "api_misuse",
            Self::OutOfBounds => "out_of_bounds",
            Self::Mismatch => "mismatch",
            Self::StaleLease => "stale_lease",
            Self::Denied => "denied",
            Self::Full => "full",
            Self::PeerGone => "peer_gone",
            Self::LinkLost => "link_lost",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
            Self::Unsupported => "unsupported",
            Self::Protocol => "protocol",
            Self::Resource => "resource",
            Self::Closed => "closed",
            Self::Forked => "forked",
            Self::Internal => "internal",
        }
    }

    /// What a caller can do about an error of this kind, unless the error says otherwise.
    pub const fn retry(self) -> Retry {
        match self {
            Self::Full | Self::TimedOut | Self::Resource => Retry::Later,
            Self::PeerGone | Self::LinkLost => Retry::AfterReconnect,
            _ => Retry::Never,
        }
    }
}

/// A failure: what kind, in which operation, what to do, and what may still happen to the memory concerned.
///
/// `Display` gives one line: the operation, the object, the value, the limit and the next step.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    operation: &'static str,
    message: String,
    retry: Retry,
    local: Quiet,
    remote: Quiet,
    native: Option<i32>,
    quarantine: Vec<BlockId>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind` in `operation`; `message` names the object, the value, the limit and the next step.
    pub fn new(kind: ErrorKind, operation: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            operation,
            message: message.into(),
            retry: kind.retry(),
            local: Quiet::Yes,
            remote: Quiet::Yes,
            native: None,
            quarantine: Vec::new(),
            source: None,
        }))
    }

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The call that failed.
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// The message without the operation.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Whether doing the same again can help.
    pub fn retry(&self) -> Retry {
        self.0.retry
    }

    /// Whether our own blocks are quiet.
    pub fn local(&self) -> Quiet {
        self.0.local
    }

    /// Whether the peer's blocks are quiet.
    pub fn remote(&self) -> Quiet {
        self.0.remote
    }

    /// The number that the operating system or the device gave.
    pub fn native(&self) -> Option<i32> {
        self.0.native
    }

    /// Our blocks that are withheld until they are proven quiet.
    pub fn quarantine(&self) -> &[BlockId] {
        &self.0.quarantine
    }

    /// The same error with another retry advice.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.0.retry = retry;
        self
    }

    /// The same error with what is known of both sides' memory.
    #[must_use]
    pub fn with_quiet(mut self, local: Quiet, remote: Quiet) -> Self {
        self.0.local = local;
        self.0.remote = remote;
        self
    }

    /// The same error with the number that the operating system or the device gave.
    #[must_use]
    pub fn with_native(mut self, native: i32) -> Self {
        self.0.native = Some(native);
        self
    }

    /// The same error with the blocks that are withheld.
    #[must_use]
    pub fn with_quarantine(mut self, blocks: Vec<BlockId>) -> Self {
        self.0.quarantine = blocks;
        self
    }

    /// The same error with its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.0.source = Some(Arc::new(source));
        self
    }

    /// A failed system call: [`ErrorKind::Resource`] with the errno, the cause kept.
    pub fn os(operation: &'static str, message: impl fmt::Display, source: std::io::Error) -> Self {
        let native = source.raw_os_error();
        let mut error = Self::new(ErrorKind::Resource, operation, format!("{message}: {source}"));
        error.0.native = native;
        error.with_source(source)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.operation, self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("operation", &self.0.operation)
            .field("message", &self.0.message)
            .field("retry", &self.0.retry)
            .field("local", &self.0.local)
            .field("remote", &self.0.remote)
            .field("native", &self.0.native)
            .field("quarantine", &self.0.quarantine)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_kinds_has_every_kind_once() {
        let places: Vec<usize> = ErrorKind::ALL.iter().map(|kind| *kind as usize).collect();
        let last = ErrorKind::Internal as usize;
        assert_eq!(places, (0..=last).collect::<Vec<_>>(), "in the order of the enum, the last one included");
    }
}
