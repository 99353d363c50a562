//! Whom a rank pulls from, and what: a pure function of both instances' topologies, caches and a request's key.
//!
//! [`RankMap`] is made once for a consumer rank and a producing instance; [`RankMap::pulls`] then gives the producer's
//! ranks to claim from, for a request: those that hold something the rank lacks, each with its [`Share`]s (a route each),
//! and, on the consumer's first rank, those that nobody reads from, so that every lease ends by word. Where several ranks
//! of the producer hold the same bytes, the request's key spreads the choice; both sides come to the same one.

mod choose;
mod heads;
mod map;
mod share;
mod slices;
mod stripes;
mod topology;

pub use heads::HeadRun;
pub use map::{Pull, RankMap};
pub use share::{Land, PlaneMove, Reformat, ScratchPart, Share, SharedGroup};
pub use stripes::Stripe;
pub use topology::{Rank, Side, Topology, layer_partition, request_key};

#[cfg(test)]
mod tests;
