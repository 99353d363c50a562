//! The control plane: real TCP between engines, servers and ranks. A frame is a length (u32, big endian) and that many
//! bytes; every frame to a server gets one frame back.

mod channel;
mod server;

pub(crate) use channel::{Broken, Channel, Watch};
pub(crate) use server::{Handler, Server};

/// The longest frame: CS's own limit on a list of regions is 4 MiB.
pub(crate) const FRAME_MAX: usize = 8 << 20;

#[cfg(test)]
mod tests;
