//! The software CANN: simulated NPUs behind the names of the real libraries. `cargo xtask sim-cann` lays it out.
