//! The flat interface of the C++ shim over `hixl::Hixl`.

pub use crate::bindings::shim::*;
use crate::table::table;

include!(concat!(env!("OUT_DIR"), "/shim.rs"));

table! {
    /// The shim.
    pub struct Api since "8.5.0" {
        ropeway_hixl_abi,
        ropeway_hixl_features,
        ropeway_hixl_create,
        ropeway_hixl_destroy,
        ropeway_hixl_initialize,
        ropeway_hixl_finalize,
        ropeway_hixl_register_mem,
        ropeway_hixl_deregister_mem,
        ropeway_hixl_connect,
        ropeway_hixl_disconnect,
        ropeway_hixl_connect_async,
        ropeway_hixl_async_status,
        ropeway_hixl_transfer_sync,
        ropeway_hixl_transfer_async,
        ropeway_hixl_transfer_status,
        ropeway_hixl_send_notify,
        ropeway_hixl_get_notifies,
        ropeway_hixl_capability,
    }
}
