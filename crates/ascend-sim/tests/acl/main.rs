//! AscendCL's rules, each by name, through the exported functions.

mod copies;
mod devices;
mod events;
mod faults;
mod ipc;
mod memory;
mod processes;
mod rig;
mod streams;
mod vmm;
