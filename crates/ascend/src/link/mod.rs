//! What the device transports share: one link engine over several native ways to a peer.
//!
//! A [`Native`] is a way that a library offers (HIXL by its shim or its C API, exported keys and copies on streams); a
//! [`Mover`] is that way towards one peer. Everything that keeps the promises of a link is done once, here: the exchange of
//! regions over the session, queues and cutting, completion, the owner's word after a READ, fences, giving up, and the time
//! for which memory is held after a link was torn down.

mod core;
mod ending;
mod flight;
mod forget;
mod lane;
pub mod mover;
mod opening;
mod poster;
mod regions;
mod slow;
#[cfg(test)]
mod tests;
mod transport;
mod wire;

#[cfg(fuzzing)]
pub(crate) use wire::fuzz;

pub use ending::Timing;
pub use mover::{
    Busy, Connected, Desc, Failure, Holds, Imported, Mover, MoverLimits, Native, Polled, PostError, Request,
    Teardown,
};
pub use transport::DeviceTransport;
