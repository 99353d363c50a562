//! What `cargo xtask bindings` makes from `include/` and `abi/figures.tsv`.
#![allow(
    missing_docs,
    missing_debug_implementations,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    dead_code,
    reason = "generated; the names are C's"
)]

pub(crate) mod acl;
mod figures;
pub(crate) mod hccl;
pub(crate) mod hixl_cs;
pub(crate) mod shim;
