//! The part of Ropeway that decides: ids, limits, errors, cache layouts and plan maths, the wire codec, and the
//! session, lease and directory state machines.
//!
//! Nothing here reads a clock, opens a socket, starts a thread, draws a random number or looks at the environment:
//! time, entropy and frames come in as arguments, and what is to be done comes out as values. That is what lets the
//! same code run under a seeded simulation, a fuzzer, and the real engine.
#![forbid(unsafe_code)]

pub mod error;
pub mod ids;
pub mod layout;
pub mod limits;
pub mod machine;
pub mod plan;
pub mod runs;
pub mod status;
pub mod wire;

pub use error::{Error, ErrorKind, Result, Retry};
pub use ids::{BlockId, CacheId, GrantId, Incarnation, PeerId, RegionId, TransferId};
pub use layout::{CacheLayout, Group, LayoutDigest, LayoutSpec, Part, Strided};
pub use limits::Limits;
pub use machine::{Directory, GrantTable, LeaseTable, Quarantine, RemoteDirectory, Session};
pub use plan::{
    BlockSet, BlockSpan, CopyPlan, PlanRequest, RawCopy, Rect, RouteMap, RouteParts, Scope, ServedRuns, Slice,
};
pub use runs::{Cursor, Run, Runs};
pub use status::{Op, Quiet, Rights, Status, StatusKind};
pub use wire::{Descriptor, Message, Secret, Token};
