//! The wire: frames and messages of the control session, lease tokens and names, and engine descriptors.
//!
//! Integers are little-endian; every length is checked against its cap and against the bytes at hand before anything
//! is allocated; trailing bytes are refused; nothing here panics on foreign bytes. `docs/PROTOCOL.md` has the tables.

pub mod blocks;
pub mod descriptor;
pub mod frame;
pub mod hello;
pub mod layout;
pub mod message;
pub mod name;
mod reader;
pub mod secret;
#[cfg(test)]
mod tests;
mod text;
pub mod token;

pub use blocks::BlockSpans;
pub use descriptor::{Auth, Descriptor};
pub use frame::{FrameDecoder, encode_frame};
pub use hello::{Hello, HostIdentity, Offer, PeerLimits};
pub use layout::{decode_layout, encode_layout};
pub use message::Message;
pub use name::LeaseName;
pub use reader::{Reader, WireError};
pub use secret::{Hidden, Secret};
pub use token::Token;

/// The newest protocol version that this build speaks.
pub const PROTOCOL_VERSION: u8 = 1;

/// The oldest one: the version before the newest, where there is one.
pub const PROTOCOL_VERSION_MIN: u8 = 1;
