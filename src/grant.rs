//! A lease as its importer holds it.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use ropeway_core::layout::CacheLayout;
use ropeway_core::plan::BlockSet;
use ropeway_core::wire::BlockSpans;
use ropeway_core::wire::message::ClaimInfo;
use ropeway_core::{BlockId, CacheId, GrantId, Limits, Result, Rights};

use crate::peer::{Peer, PeerInner};
use crate::shared::Shared;

/// The right to read or write a set of a peer's blocks. Cheap to clone; renewed in the background, released to its owner
/// when the last clone is dropped and every transfer under it has ended.
#[derive(Clone)]
pub struct Grant(pub(crate) Arc<GrantInner>);

pub(crate) struct GrantInner {
    pub(crate) id: GrantId,
    pub(crate) cache: CacheId,
    pub(crate) rights: Rights,
    blocks: Arc<BlockSpans>,
    /// The same, checked against the owner's layout: made by the first plan.
    checked: OnceLock<BlockSet>,
    pub(crate) peer: Arc<PeerInner>,
    /// Keeps the connection.
    _handle: Option<Peer>,
    pub(crate) shared: Weak<Shared>,
    stale: AtomicBool,
}

impl Grant {
    pub(crate) fn new(
        info: ClaimInfo,
        peer: &Arc<PeerInner>,
        handle: Option<Peer>,
        shared: &Arc<Shared>,
    ) -> Self {
        Self(Arc::new(GrantInner {
            id: info.grant,
            cache: info.cache,
            rights: info.rights,
            blocks: info.blocks,
            checked: OnceLock::new(),
            peer: Arc::clone(peer),
            _handle: handle,
            shared: Arc::downgrade(shared),
            stale: AtomicBool::new(false),
        }))
    }

    /// The lease as its owner names it.
    pub fn id(&self) -> GrantId {
        self.0.id
    }

    /// What it allows.
    pub fn rights(&self) -> Rights {
        self.0.rights
    }

    /// The owner's blocks that it covers, ascending, a list for each group of its cache: the owner's word, whatever else
    /// was told of them.
    pub fn blocks(&self) -> Vec<Vec<BlockId>> {
        self.0.blocks.ids()
    }

    /// Whether the owner has revoked it, or it could not be renewed in time.
    pub fn is_stale(&self) -> bool {
        self.0.stale.load(Ordering::Acquire)
    }
}

impl Grant {
    /// The blocks that plans may name. `layout` is the owner's, of the cache that the grant is on.
    pub(crate) fn within(&self, layout: &CacheLayout, limits: &Limits) -> Result<&BlockSet> {
        if let Some(checked) = self.0.checked.get() {
            return Ok(checked);
        }
        let checked = BlockSet::from_spans(layout, &self.0.blocks.0, limits)?;
        Ok(self.0.checked.get_or_init(|| checked))
    }
}

impl GrantInner {
    pub(crate) fn mark_stale(&self) {
        self.stale.store(true, Ordering::Release);
    }
}

impl Drop for GrantInner {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade().filter(|shared| !shared.is_foreign()) {
            shared.drop_grant(&self.peer, self.id);
        }
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant")
            .field("id", &self.0.id)
            .field("rights", &self.0.rights)
            .field("stale", &self.is_stale())
            .finish()
    }
}
