//! The native interface of Ascend NPUs, as far as Ropeway calls it.
//!
//! Own declarations of AscendCL ([`acl`]), HCCL ([`hccl`]), HIXL's C interface ([`hixl_cs`]) and the flat interface of the
//! C++ shim over HIXL ([`shim`]), written from facts about the ABI: names, types, values. Nothing is linked. [`load`] looks
//! for an installed CANN at run time and fills one table of function pointers per library; parts that only some releases
//! have are `Option`. `docs/ABI.md` says which.
//!
//! Nothing here has run on an NPU yet.

mod bindings;
mod table;

pub mod acl;
pub mod hccl;
pub mod hixl_cs;
pub mod load;
pub mod names;
pub mod shim;

pub use load::{Cann, LoadError, Search, WhyNot};
pub use table::Group;
