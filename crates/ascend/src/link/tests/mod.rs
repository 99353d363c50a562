//! The link engine over a scripted mover: what is told, when, and what is still held then.

mod fake;
mod rig;

mod batches;
mod ending;
mod fences;
mod forget;
mod opening;
mod regions;
