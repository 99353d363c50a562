//! What tests of several crates share. Used from tests only.

mod absent;

pub use absent::cannot_run;
