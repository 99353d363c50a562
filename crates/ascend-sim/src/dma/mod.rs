//! What a link's DMA engine does: moves bytes between device and host memory of any process of this machine, in its
//! own time, with nobody of the far side taking part.

mod backing;
mod mover;
mod request;
mod spot;

pub(crate) use backing::{Backing, Reach, plan};
pub(crate) use mover::{Ending, Job, Mover, Quiesce};
pub(crate) use request::Request;
pub(crate) use spot::{Move, Spot};

#[cfg(test)]
mod tests;
