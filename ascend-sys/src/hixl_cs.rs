//! HIXL's C interface, as CANN 9.1.0 and later have it.
//!
//! 8.5.0 has none. 9.0.0 and 9.0.1 export most of these names with **other structures**: calling them with these would
//! corrupt memory. [`NEW_LAYOUT`] is exported exactly where the structures are these, so without it nothing is loaded.

pub use crate::bindings::hixl_cs::*;
use crate::table::table;

/// The symbol that tells the structures of 9.1.0 from those of 9.0.
pub const NEW_LAYOUT: &str = "HixlCSClientBatchPutSync";

/// A symbol that 9.0 has as well.
pub const ANY_LAYOUT: &str = "HixlCSServerCreate";

/// Tags of the region that the library adds to every list of a server's memory: not the user's.
pub const BUILTIN_TAGS: &[&str] = &["_hixl_builtin_host_trans_flag", "_hixl_builtin_dev_trans_flag"];

impl EndpointDesc {
    /// An endpoint with nothing set, which in this structure is all ones.
    #[must_use]
    pub const fn unset() -> Self {
        // SAFETY: integers, arrays and unions of integers: every pattern of bits is a value.
        unsafe { core::mem::transmute::<[u8; size_of::<Self>()], Self>([0xff; size_of::<Self>()]) }
    }
}

table! {
    /// HIXL's C interface.
    pub struct Api since "9.1.0" {
        HixlCSServerCreate,
        HixlCSServerRegMem,
        HixlCSServerListen,
        HixlCSServerUnregMem,
        HixlCSServerDestroy,
        HixlCSClientCreate,
        HixlCSClientConnect,
        HixlCSClientGetRemoteMem,
        HixlCSClientRegMem,
        HixlCSClientUnregMem,
        HixlCSClientBatchPutAsync,
        HixlCSClientBatchGetAsync,
        HixlCSClientBatchPutSync,
        HixlCSClientBatchGetSync,
        HixlCSClientQueryCompleteStatus,
        HixlCSClientDestroy,
    }
}
