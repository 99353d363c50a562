//! Links of all three kinds: both ends in this process, and in two.

mod child;
mod ending;
mod lending;
mod moving;
mod processes;
mod revoking;
