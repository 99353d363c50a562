//! What tests of several crates share. Used from tests only.

mod absent;
pub mod allocations;
pub mod cann;
#[cfg(feature = "engine")]
pub mod conformance;
pub mod fuzz;
#[cfg(feature = "engine")]
pub mod idle;
pub mod links;
#[cfg(feature = "engine")]
pub mod oracle;
#[cfg(feature = "engine")]
pub mod process;
pub mod sim;
#[cfg(feature = "cann")]
pub mod simulator;
#[cfg(feature = "engine")]
pub mod watchdog;

pub use absent::cannot_run;
