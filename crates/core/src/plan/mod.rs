//! Plan maths: which bytes go where, computed once per request in time that grows with the block ids, not with the
//! layers.
//!
//! A [`RouteMap`] matches two layouts once. [`RouteMap::plan`] turns block ids into a [`CopyPlan`], which expands
//! lazily to merged [`Run`](crate::Run)s and encodes itself as a compact request. The other side decodes that
//! [`PlanRequest`] and makes [`ServedRuns`] from it: its own half of the same copies.
//!
//! Both sides agree on the order of *bytes*: part by part in the order of the route, in a part id by id as listed, in
//! an id kernel block by kernel block, in a block row by row. They need not agree on runs: each half that knows one
//! side only merges by that side alone.

mod blocks;
mod copy;
mod expansion;
mod once;
mod raw;
mod rect;
mod request;
mod route;
mod served;
mod spans;
mod varint;

pub use blocks::{BlockSet, BlockSpan};
pub use copy::{CopyPlan, Scope};
pub use raw::RawCopy;
pub use rect::{Rect, Slice};
pub use request::PlanRequest;
pub use route::{RouteMap, RouteParts};
pub use served::ServedRuns;

#[cfg(test)]
mod tests;
