//! The worker half: leases, claims and pulls over one engine.

pub mod tickets;
