//! What tests of several crates share. Used from tests only.

mod absent;
pub mod fuzz;
pub mod sim;

pub use absent::cannot_run;
