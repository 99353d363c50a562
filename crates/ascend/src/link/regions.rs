//! Regions that cross a link: imports of the peer's, exports of ours, and those that are only local ends of batches.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use ropeway_core::{Error, ErrorKind, RegionId, Result};
use ropeway_transport::{Fenced, Memory};

use super::core::{LinkCore, Stage, left};
use super::lane::Event;
use super::wire::{DESCRIPTION_MAX, Malformed, Message, Offered};

/// A region of the peer.
#[derive(Debug)]
pub(super) enum Import {
    /// The owner has been asked.
    Asked,
    /// The mover is importing it; it may have been withdrawn meanwhile.
    Importing {
        withdrawn: bool,
    },
    Ready {
        base: u64,
        len: u64,
    },
    /// Waits for its last batch and its release.
    Leaving,
    /// Kept until whoever asked has seen it.
    Failed(Error),
}

/// A region of ours.
pub(super) struct Ours {
    memory: Arc<Memory>,
    /// What the mover said of it, once it is registered.
    description: Option<Bytes>,
    /// The peer holds it.
    pub(super) exported: bool,
    /// It is closing.
    withdrawing: bool,
    /// It may be the local end of our batches.
    adopted: bool,
    /// On its way out; nothing of ours may use it.
    leaving: bool,
    /// A local end through a stage only.
    staged: bool,
}

impl Ours {
    fn new(memory: &Arc<Memory>) -> Self {
        Self {
            memory: Arc::clone(memory),
            description: None,
            exported: false,
            withdrawing: false,
            adopted: false,
            leaving: false,
            staged: false,
        }
    }

    /// The memory, if it is registered.
    fn registered(&self) -> Option<Arc<Memory>> {
        self.description.is_some().then(|| Arc::clone(&self.memory))
    }
}

/// The initiator: imports.
impl LinkCore {
    pub(super) fn import(&self, region: RegionId, deadline: Instant) -> Result<u64> {
        let mut tables = self.tables();
        loop {
            if self.stage() != Stage::Open {
                return Err(closed("import"));
            }
            match tables.imports.get(&region) {
                Some(Import::Ready { len, .. }) => return Ok(*len),
                Some(Import::Failed(_)) => {
                    let Some(Import::Failed(error)) = tables.imports.remove(&region) else {
                        return Err(closed("import"));
                    };
                    return Err(error);
                }
                Some(Import::Leaving) => return Err(gone(region)),
                Some(Import::Asked | Import::Importing { .. }) => {}
                None => {
                    tables.imports.insert(region, Import::Asked);
                    drop(tables);
                    self.say(&Message::Ask { region });
                    tables = self.tables();
                    continue;
                }
            }
            if Instant::now() >= deadline {
                // An answer that comes later is sent back.
                if matches!(tables.imports.get(&region), Some(Import::Asked)) {
                    tables.imports.remove(&region);
                }
                let text = format!("the peer did not give region {region} in time");
                return Err(Error::new(ErrorKind::TimedOut, "import", text));
            }
            let wait = self.changed.wait_timeout(tables, left(deadline));
            tables = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(super) fn answered(&self, offered: Offered) {
        let wanted = match self.tables().imports.get_mut(&offered.region) {
            Some(entry @ Import::Asked) => {
                *entry = Import::Importing { withdrawn: false };
                true
            }
            // Asked twice, for the first answer came late: it is held once.
            Some(_) => return,
            None => false,
        };
        if wanted {
            self.slowly(move |me| me.bring_in(&offered));
        } else {
            self.say(&Message::Withdrawn { region: offered.region });
        }
    }

    fn bring_in(&self, offered: &Offered) {
        let Offered { region, len, description } = offered;
        // A link that ends has said, or is about to say, that it has let go of everything.
        let imported = match self.mover().as_mut().filter(|_| self.stage() == Stage::Open) {
            Some(mover) => mover.import(*region, *len, description),
            None => Err(closed("import")),
        };
        let withdrawn = {
            let mut tables = self.tables();
            let withdrawn = matches!(tables.imports.get(region), Some(Import::Importing { withdrawn: true }));
            let entry = match &imported {
                Ok(_) if withdrawn => Import::Leaving,
                Ok(imported) => Import::Ready { base: imported.base, len: *len },
                Err(error) => Import::Failed(error.clone()),
            };
            tables.imports.insert(*region, entry);
            withdrawn
        };
        // Before anybody can post: a connection that is older does not know the region.
        self.next_epoch();
        self.changed.notify_all();
        match imported {
            Ok(_) if withdrawn => self.release_import(*region),
            Ok(_) => {}
            Err(_) => self.say(&Message::Withdrawn { region: *region }),
        }
    }

    pub(super) fn denied(&self, region: RegionId, kind: ErrorKind, text: String) {
        if let Some(entry @ Import::Asked) = self.tables().imports.get_mut(&region) {
            *entry = Import::Failed(Error::new(kind, "import", text));
        }
        self.changed.notify_all();
    }

    /// The owner closes a region: no new batch may use it; it is let go of after the last that does.
    pub(super) fn withdrawn_by_owner(&self, region: RegionId) {
        let mut tables = self.tables();
        match tables.imports.get_mut(&region) {
            Some(entry @ Import::Ready { .. }) => {
                *entry = Import::Leaving;
                drop(tables);
                self.tell_lane(Event::Leave(region));
            }
            Some(Import::Importing { withdrawn }) => *withdrawn = true,
            Some(Import::Leaving) => {}
            Some(entry @ Import::Asked) => {
                *entry = Import::Failed(gone(region));
                drop(tables);
                self.changed.notify_all();
                self.say(&Message::Withdrawn { region });
            }
            Some(Import::Failed(_)) | None => {
                drop(tables);
                self.say(&Message::Withdrawn { region });
            }
        }
    }

    /// Nothing names the import any more. On a slow thread.
    pub(super) fn release_import(&self, region: RegionId) {
        let released = match self.mover().as_mut() {
            Some(mover) => mover.release(region),
            None => Ok(()),
        };
        match released {
            Ok(()) => {
                self.tables().imports.remove(&region);
                self.say(&Message::Withdrawn { region });
            }
            // The owner goes on waiting, until the link is closed.
            Err(error) => tracing::error!(%region, %error, "an import was not released"),
        }
    }

    /// Lets go of every import; nothing of ours is in flight any more. On a slow thread.
    pub(super) fn release_all(&self) {
        let held: Vec<RegionId> = {
            let mut tables = self.tables();
            // Known until it is released: an owner that withdraws it meanwhile must not hear that it is gone.
            tables.imports.retain(|_, import| matches!(import, Import::Ready { .. } | Import::Leaving));
            tables.imports.values_mut().for_each(|import| *import = Import::Leaving);
            tables.imports.keys().copied().collect()
        };
        let mut mover = self.mover();
        for region in held {
            let released = mover.as_mut().map_or(Ok(()), |mover| mover.release(region));
            if let Err(error) = released {
                tracing::error!(%region, %error, "an import was not released");
            }
            self.tables().imports.remove(&region);
        }
    }
}

/// The owner: exports, and regions that are local ends.
impl LinkCore {
    /// The peer asked for a region. On a slow thread.
    pub(super) fn export(&self, region: RegionId) {
        let denied = match self.lend(region) {
            Ok(offered) => return self.say(&Message::Answer(offered)),
            Err(error) => error,
        };
        self.say(&Message::Deny { region, kind: denied.kind(), text: denied.message().to_owned() });
    }

    fn lend(&self, region: RegionId) -> Result<Offered> {
        if self.stage() != Stage::Open {
            return Err(closed("export"));
        }
        {
            let mut tables = self.tables();
            if tables.ours.get(&region).is_some_and(|ours| ours.withdrawing) {
                return Err(gone(region));
            }
            // A withdrawal that comes before the entry is there is not to miss it.
            tables.lending.insert(region, false);
        }
        let memory = match self.sink.export(region) {
            Ok(memory) => memory,
            Err(error) => {
                if self.tables().lending.remove(&region) == Some(true) {
                    self.sink.withdrawn(region);
                }
                return Err(error);
            }
        };
        {
            let mut tables = self.tables();
            let withdrawn = tables.lending.remove(&region) == Some(true);
            let ours = tables.ours.entry(region).or_insert_with(|| Ours::new(&memory));
            (ours.exported, ours.leaving) = (true, false);
            ours.withdrawing |= withdrawn;
        }
        if self.is_withdrawing(region) {
            drop(memory);
            self.returned(region);
            return Err(gone(region));
        }
        let registered = self.register(region, &memory);
        let refused = match registered {
            Ok(description) if !self.is_withdrawing(region) => {
                return Ok(Offered { region, len: memory.len(), description });
            }
            Ok(_) => gone(region),
            Err(error) => error,
        };
        drop(memory);
        self.returned(region);
        Err(refused)
    }

    fn is_withdrawing(&self, region: RegionId) -> bool {
        self.tables().ours.get(&region).is_none_or(|ours| ours.withdrawing)
    }

    /// Registers a region that has its entry. On a slow thread.
    fn register(&self, region: RegionId, memory: &Arc<Memory>) -> Result<Bytes> {
        if let Some(known) = self.tables().ours.get(&region).and_then(|ours| ours.description.clone()) {
            return Ok(known);
        }
        let (description, staged) = match self.mover().as_mut() {
            Some(mover) => (mover.register(region, memory)?, mover.stages(region)),
            None => return Err(closed("register")),
        };
        self.next_epoch();
        if let Some(ours) = self.tables().ours.get_mut(&region) {
            (ours.description, ours.staged) = (Some(description.clone()), staged);
        }
        if description.len() > DESCRIPTION_MAX {
            let text = format!("the native description of region {region} has {} bytes", description.len());
            return Err(Error::new(ErrorKind::Internal, "register", text));
        }
        Ok(description)
    }

    /// The peer has let go of our region, or cannot have it.
    pub(super) fn returned(&self, region: RegionId) {
        let leaving = {
            let mut tables = self.tables();
            let Some(ours) = tables.ours.get_mut(&region).filter(|ours| ours.exported) else { return };
            ours.exported = false;
            let stays = ours.adopted && !ours.withdrawing;
            ours.leaving |= !stays;
            (!stays).then(|| Arc::clone(&ours.memory))
        };
        match leaving {
            Some(memory) => self.tell_lane(Event::LeaveOurs(region, memory)),
            None => self.sink.withdrawn(region),
        }
    }

    pub(super) fn withdraw(&self, region: RegionId) -> Fenced {
        let leaving = {
            let mut tables = self.tables();
            if let Some(withdrawn) = tables.lending.get_mut(&region) {
                *withdrawn = true;
                return Fenced::Pending;
            }
            let Some(ours) = tables.ours.get_mut(&region) else { return Fenced::Now };
            if std::mem::replace(&mut ours.withdrawing, true) {
                return Fenced::Pending;
            }
            ours.leaving |= !ours.exported;
            (!ours.exported).then(|| Arc::clone(&ours.memory))
        };
        match leaving {
            Some(memory) => self.tell_lane(Event::LeaveOurs(region, memory)),
            None => self.say(&Message::Withdraw { region }),
        }
        Fenced::Pending
    }

    /// Nothing uses the region on this link any more, on either side. On a slow thread.
    pub(super) fn deregister(&self, region: RegionId) {
        // The peer may have asked for it again meanwhile.
        let ours = self.tables().ours.get(&region).filter(|ours| ours.leaving).map(Ours::registered);
        let Some(registered) = ours else { return };
        self.deregister_natively(region, registered);
        self.tables().ours.remove(&region);
        self.sink.withdrawn(region);
    }

    /// Deregisters what is left; nothing touches it any more. On a slow thread.
    pub(super) fn deregister_all(&self) {
        let all: Vec<_> =
            self.tables().ours.iter().map(|(region, ours)| (*region, ours.registered())).collect();
        for (region, registered) in all {
            self.deregister_natively(region, registered);
            self.tables().ours.remove(&region);
        }
    }

    /// Before the region is out of the table: whoever finds it gone may unmap it.
    fn deregister_natively(&self, region: RegionId, registered: Option<Arc<Memory>>) {
        let Some(memory) = registered else { return };
        let done = self.mover().as_mut().map_or(Ok(()), |mover| mover.deregister(region));
        if let Err(error) = &done {
            tracing::error!(%region, %error, "a region was not deregistered");
        }
        self.shared.left_over(region, &memory, done);
    }

    pub(super) fn adopt(&self, region: RegionId, memory: &Arc<Memory>, deadline: Instant) -> Result<()> {
        if memory.device().is_none() && !self.shared.native.limits().host_memory {
            let text =
                format!("region {region} is host memory, which {} cannot be a local end of", self.kind());
            return Err(Error::new(ErrorKind::Unsupported, "route", text));
        }
        if self.stage() != Stage::Open {
            return Err(closed("adopt"));
        }
        if self.tables().ours.get(&region).is_some_and(|ours| ours.adopted && !ours.leaving) {
            return Ok(());
        }
        let (done, answer) = crossbeam_channel::bounded(1);
        let memory = Arc::clone(memory);
        self.slowly(move |me| {
            let _ = done.send(me.take_in(region, &memory));
        });
        answer.recv_deadline(deadline).unwrap_or_else(|_| {
            let text = format!("region {region} was not registered in time");
            Err(Error::new(ErrorKind::TimedOut, "route", text))
        })
    }

    fn take_in(&self, region: RegionId, memory: &Arc<Memory>) -> Result<()> {
        {
            let mut tables = self.tables();
            let ours = tables.ours.entry(region).or_insert_with(|| Ours::new(memory));
            if ours.withdrawing || ours.leaving {
                return Err(gone(region));
            }
            ours.adopted = true;
        }
        // A region that was registered for the peer alone may be newer than our connection.
        self.next_epoch();
        let registered = self.register(region, memory);
        if registered.is_err() {
            let mut tables = self.tables();
            if let Some(ours) = tables.ours.get_mut(&region) {
                ours.adopted = false;
                // A withdrawal that came meanwhile waits to be told of its end.
                if !ours.exported && !ours.withdrawing {
                    tables.ours.remove(&region);
                }
            }
        }
        registered.map(drop)
    }

    pub(super) fn stages(&self, region: RegionId) -> bool {
        self.tables().ours.get(&region).is_some_and(|ours| ours.staged)
    }

    pub(super) fn holds_exports(&self) -> bool {
        self.tables().ours.values().any(|ours| ours.exported)
    }

    /// What a mover gave as its probe's description, checked.
    pub(super) fn checked(description: Bytes) -> Result<Bytes> {
        if description.len() > DESCRIPTION_MAX {
            let error = Malformed("a native description that is too long");
            return Err(Error::new(ErrorKind::Internal, "link", error.0));
        }
        Ok(description)
    }
}

fn gone(region: RegionId) -> Error {
    Error::new(ErrorKind::Closed, "import", format!("region {region} was withdrawn by its owner"))
}

pub(super) fn closed(operation: &'static str) -> Error {
    Error::new(ErrorKind::Closed, operation, "the link is not open")
}
