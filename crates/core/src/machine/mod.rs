//! The state machines: leases, grants, sessions, the cache directory, and quarantine.
//!
//! All of them work alike: calls, frames, proofs and `now` (time since the engine started) go in; actions or outputs
//! come out of a queue that the caller drains after each call; `next_timer` says when `tick` wants to be called.
//! None reads a clock, and iteration order never depends on hashing, so a run can be repeated from its inputs.

pub mod directory;
pub mod grants;
pub mod lease;
pub mod quarantine;
pub mod session;

pub use directory::{Directory, RemoteDirectory};
pub use grants::GrantTable;
pub use lease::LeaseTable;
pub use quarantine::Quarantine;
pub use session::Session;
