//! Ropeway moves KV-cache blocks from a producer (prefill) rank to a consumer (decode) rank: safely, fast, and with no
//! accelerator at hand, too.
//!
//! An [`Engine`] owns [`Region`]s of memory. A [`Cache`] names strided parts of regions whose blocks are addressed by id.
//! The owner of blocks gives out a [`Lease`]; its token travels to the other side (in a request's `kv_transfer_params`,
//! say), which [connects](Engine::connect), claims a [`Grant`], matches both caches once in a [`Route`], and turns block
//! ids into a [`Plan`]. A submitted plan is a [`Transfer`]: a future without a runtime behind it.
//!
//! ```
//! use std::time::Duration;
//! use ropeway::{BlockId, Engine, Host, LeaseOptions, Rights, Strided, Submit};
//!
//! # fn main() -> ropeway::Result<()> {
//! const WAIT: Duration = Duration::from_secs(30);
//! let (producer, consumer) = (Engine::builder().open()?, Engine::builder().open()?);
//! let cache = |engine: &Engine| {
//!     let region = engine.alloc(Host::private(64 << 10))?;
//!     let cache = engine.cache("kv").group("g0", 1).part("layers.0.k", &region, Strided::dense(0, 4096, 16));
//!     Ok::<_, ropeway::Error>((region, cache.publish()?))
//! };
//! let ((theirs, source), (ours, target)) = (cache(&producer)?, cache(&consumer)?);
//! theirs.fill(3 * 4096, 4096, 7)?; // block 3 of the producer
//!
//! let lease = source.lease(&[&[BlockId(3)]], Rights::Read, LeaseOptions::default())?;
//! let peer = consumer.connect(&producer.descriptor(), WAIT)?.wait()?;
//! let grant = peer.claim(&lease.token(), WAIT)?.wait()?;
//! let route = peer.route(&target, "kv", WAIT)?.wait()?;
//! let plan = route.read(&grant, &[&[BlockId(5)]], &[&[BlockId(3)]])?;
//! let report = plan.submit(Submit::default())?.wait(WAIT).expect("done in time")?;
//! assert_eq!(report.bytes, 4096);
//!
//! let mut block = [0; 4096];
//! ours.read(5 * 4096, &mut block)?; // block 5 of the consumer
//! assert_eq!(block, [7; 4096]);
//! drop((plan, grant)); // the last clone of the grant, and nothing under way: this releases the lease
//! assert!(lease.wait_free(WAIT).is_some());
//! # Ok(()) }
//! ```
//!
//! What each call may and may not touch, and when memory is free again, is in `docs/ARCHITECTURE.md`.

mod builder;
mod cache;
mod claiming;
mod closing;
mod completion;
mod control;
mod deadline;
mod engine;
mod event;
mod grant;
mod hearing;
mod importing;
mod lease;
mod leasing;
mod linking;
mod notes;
mod npu;
mod peer;
mod pending;
mod plan;
mod progress;
mod quarantine;
mod region;
mod route;
mod secret;
mod shared;
mod table;
mod transfer;

pub use builder::Builder;
pub use cache::{Cache, CacheBuilder};
pub use claiming::lease_name;
pub use completion::{Completion, Completions};
pub use engine::{CloseReport, Engine};
pub use event::{Event, Start};
pub use grant::Grant;
pub use lease::{Freed, Lease, LeaseOptions};
pub use peer::Peer;
pub use pending::Pending;
pub use plan::{Plan, Submit, SubmitError};
pub use quarantine::Quarantined;
pub use region::{Host, KeepAlive, Region};
pub use ropeway_ascend::{Npu, NpuConfig};
pub use ropeway_core::layout::{CacheLayout, Strided};
pub use ropeway_core::machine::lease::Outcome;
pub use ropeway_core::machine::quarantine::Cause;
pub use ropeway_core::plan::{RawCopy, Rect, Slice};
pub use ropeway_core::wire::{Auth, Descriptor, LeaseName, Secret, Token};
pub use ropeway_core::{
    BlockId, CacheId, Error, ErrorKind, GrantId, Incarnation, Limits, Op, PeerId, Quiet, RegionId, Result,
    Retry, Rights, Status, StatusKind, TransferId,
};
pub use ropeway_transport::{Calibration, TransportKind};
pub use route::{Parts, Route, RouteOptions};
pub use secret::{AuthMode, ClusterKey};
pub use transfer::{Report, Transfer};

/// The README's example is a test as well.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
