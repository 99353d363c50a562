//! Regions of a peer that a link can use, and regions of ours that a peer uses.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use ropeway_core::{Error, ErrorKind, RegionId, Result, Rights};

use super::link::LinkCore;
use crate::Memory;
use crate::janitor::Janitor;

/// A peer's region, as this side reaches it. Dropping the last clone tells the owner that it was let go.
pub(crate) struct Import {
    region: RegionId,
    place: Place,
    len: u64,
    writable: bool,
    link: Weak<LinkCore>,
}

/// Where a peer's region lies.
pub(crate) enum Place {
    /// In memory that this process can touch: a neighbour's, or a map of a peer's memfd.
    Here(Arc<Memory>),
    /// In the peer's address space, at this address.
    There(u64),
}

impl Import {
    pub(crate) fn new(
        region: RegionId,
        place: Place,
        len: u64,
        writable: bool,
        link: Weak<LinkCore>,
    ) -> Self {
        Self { region, place, len, writable, link }
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.writable
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// Whether `len` bytes from `at` on lie inside.
    pub(crate) fn holds(&self, at: u64, len: u32) -> bool {
        at.checked_add(u64::from(len)).is_some_and(|end| end <= self.len)
    }
}

impl Drop for Import {
    fn drop(&mut self) {
        // Unmapped first, then told.
        self.place = Place::There(0);
        if let Some(link) = self.link.upgrade() {
            link.let_go(self.region);
        }
    }
}

/// A region of ours that the peer has, or is about to have.
pub(crate) struct Export {
    /// `None` while the engine is asked for it: a withdrawal finds this entry all the same.
    pub(crate) memory: Option<Arc<Memory>>,
    /// Answers sent and not yet let go.
    pub(crate) holders: u32,
    /// No further answers: the region is closing.
    pub(crate) withdrawing: bool,
}

impl Export {
    /// One holder less; gives how many are left.
    pub(crate) fn let_go(&mut self) -> u32 {
        self.holders = self.holders.saturating_sub(1);
        self.holders
    }
}

/// An owner's answer to an import request.
pub(crate) struct Answer {
    pub(crate) len: u64,
    /// In the owner's address space; 0 where it is mapped.
    pub(crate) address: u64,
    pub(crate) writable: bool,
    pub(crate) memfd: Option<OwnedFd>,
}

impl Answer {
    /// Where the region lies from here: maps it and makes its pages present, where it is mapped.
    pub(super) fn place(self, region: RegionId, mapped: bool, janitor: &Janitor) -> Result<Place> {
        let broken = |why: &str| Error::new(ErrorKind::Protocol, "import", format!("region {region}: {why}"));
        match (mapped, self.memfd) {
            (true, Some(memfd)) => {
                let rights = if self.writable { Rights::Write } else { Rights::Read };
                Ok(Place::Here(Memory::map_peer(memfd, self.len, rights, janitor)?))
            }
            (true, None) => Err(broken("the peer gave no descriptor")),
            (false, _) if self.address.checked_add(self.len).is_none_or(|end| end > isize::MAX as u64) => {
                Err(broken("the peer's address range wraps around"))
            }
            (false, _) => Ok(Place::There(self.address)),
        }
    }
}
