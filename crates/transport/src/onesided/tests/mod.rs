//! Links of all three kinds: both ends in this process, and in two.

mod ending;
mod moving;
mod revoking;
