//! HCCL between processes: communicators from root info, sends and receives that are matched in the order in which both
//! ranks called for them. Collectives, rank tables and sub-communicators are not played: they answer NOT_SUPPORT.

mod abi;
mod comm;
pub mod ffi;
mod matching;
mod post;
mod rendezvous;

pub use abi::{RootInfo, SendRecvItem};

/// HCCL's results.
pub(crate) mod result {
    pub(crate) const SUCCESS: u32 = 0;
    pub(crate) const PARA: u32 = 1;
    pub(crate) const PTR: u32 = 2;
    pub(crate) const MEMORY: u32 = 3;
    pub(crate) const INTERNAL: u32 = 4;
    pub(crate) const NOT_SUPPORT: u32 = 5;
    pub(crate) const UNAVAIL: u32 = 7;
    pub(crate) const TIMEOUT: u32 = 9;
    pub(crate) const TCP_CONNECT: u32 = 11;
    pub(crate) const RUNTIME: u32 = 15;
    pub(crate) const NETWORK: u32 = 19;
    pub(crate) const AGAIN: u32 = 20;
    pub(crate) const REMOTE: u32 = 21;
    pub(crate) const SUSPENDING: u32 = 22;
}

/// A value, or HCCL's number.
pub(crate) type Outcome<T = ()> = Result<T, u32>;
