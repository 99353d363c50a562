//! How bytes move: memory and its ownership, copy kernels, the same-host fence, and the transports.
//!
//! A [`Transport`] makes [`Link`]s; a [`Link`] takes [`Batch`]es; a batch ends through its [`Completer`], exactly once.
//! Nothing here knows a type of the engine: what a link needs of it comes through [`LinkSink`].

pub mod batch;
pub mod calibrate;
pub mod cma;
pub mod completion;
pub mod copy;
pub mod fence;
pub mod inbox;
pub mod janitor;
pub mod link;
pub mod loopback;
pub mod memory;
pub mod onesided;
mod rendezvous;
pub mod shm;
#[cfg(feature = "sim")]
pub mod sim;
mod sync;
pub mod tcp;

pub use batch::{Batch, Refusal, Rejected};
pub use calibrate::Calibration;
pub use cma::Cma;
pub use completion::{Completer, State, Watcher};
pub use fence::Fence;
pub use inbox::Inbox;
pub use janitor::Janitor;
pub use link::{
    Capabilities, Declined, Fenced, Link, LinkConfig, LinkKey, LinkSink, MAX_LINK_MESSAGE_BYTES, Role,
    ServeRequest, Served, Transport, TransportKind,
};
pub use loopback::Loopback;
pub use memory::Memory;
pub use onesided::{OneSided, OneSidedConfig};
pub use shm::Shm;
pub use tcp::{Tcp, TcpConfig};

/// The decoders of peers' bytes, for the fuzzer.
#[cfg(fuzzing)]
pub mod fuzzing {
    pub use crate::tcp::fuzz as tcp;

    /// The host side channel's messages.
    pub fn host(bytes: &[u8]) {
        crate::rendezvous::fuzz(bytes);
    }
}
