//! The side channel between engines of one host: how they meet, and how they tell each other of regions.
//!
//! Each engine has a seqpacket socket in the abstract namespace, named from a random nonce that its offer carries, and
//! one thread, `ropeway-host`, that serves it and looks for the proofs that links of all three kinds wait for. It sleeps
//! in `epoll` when there is nothing to do. `docs/PROTOCOL.md` has the messages.

mod greeting;
mod host;
mod message;
mod peers;
mod process;
mod socket;
#[cfg(all(not(loom), test))]
mod tests;

pub(crate) use greeting::Meeting;
pub(crate) use host::{Host, Wire};
#[cfg(fuzzing)]
pub(crate) use message::fuzz;
pub(crate) use process::Process;
