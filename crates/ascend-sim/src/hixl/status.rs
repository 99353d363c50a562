//! HIXL's status numbers.

/// Done.
pub(crate) const SUCCESS: u32 = 0;
/// A parameter, an option, an address or a request is wrong.
pub(crate) const PARAM_INVALID: u32 = 103_900;
/// No answer or no end in time.
pub(crate) const TIMEOUT: u32 = 103_901;
/// No link to that engine.
pub(crate) const NOT_CONNECTED: u32 = 103_902;
/// There is a link already.
pub(crate) const ALREADY_CONNECTED: u32 = 103_903;
/// The receiver did not take a notify.
pub(crate) const NOTIFY_FAILED: u32 = 103_904;
/// Not to be had on this chip or link.
pub(crate) const UNSUPPORTED: u32 = 103_905;
/// Streams, slots or queues are used up.
pub(crate) const RESOURCE_EXHAUSTED: u32 = 203_900;
/// Anything else.
pub(crate) const FAILED: u32 = 503_900;

/// What a call comes to: nothing more to say, or the number to return.
pub(crate) type Outcome<T = ()> = Result<T, u32>;

/// The number that C gets.
pub(crate) fn number(outcome: Outcome) -> u32 {
    outcome.err().unwrap_or(SUCCESS)
}

/// States of a request and of CS's complete handle.
pub(crate) mod transfer {
    /// Not over.
    pub(crate) const WAITING: u32 = 0;
    /// Over, all bytes moved.
    pub(crate) const COMPLETED: u32 = 1;
    /// Over, and nothing is sure about the bytes.
    pub(crate) const FAILED: u32 = 3;
}
