//! Host memory as the local end of links that do not take it: bytes rest in our own device's memory on their way, and in pinned
//! memory, for a device cannot copy between the host and another device.
//!
//! [`Staged`] puts itself before a native [`Mover`](crate::link::Mover). A READ goes natively into a place of the stage, from
//! there to pinned memory on a stream, and from there into place by the posting thread; a WRITE goes the other way. Each request
//! has up to two places, so that one is filled or emptied while the other is on its way. A request is over when nothing of it is
//! native, on a stream or to be copied. A place whose native transfer was given up is not used again before its link's memory is
//! let go of.

mod flow;
mod hosts;
mod mover;
mod places;

pub(crate) use mover::{Direct, Staged};
pub(crate) use places::Stages;
