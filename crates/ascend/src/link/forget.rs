//! How a region of ours is let go of on every link: for memory that is to be unmapped, closed or dropped.
//!
//! Each link deregisters it when nothing of that link uses it any more. Where connections keep what was registered before
//! they were made (HIXL lets go of no region while it has a link), all links pause: what is in flight ends, they disconnect,
//! and each connects anew with its next batch.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError, TryLockError, Weak};
use std::time::{Duration, Instant};

use ropeway_core::{Error, ErrorKind, RegionId, Result};
use ropeway_transport::{Fenced, Memory};

use super::core::{LinkCore, Stage};
use super::lane::Event;
use super::mover::Holds;
use super::transport::Shared;

/// How long batches may stand still for it at a time, and for how long they then go on.
const PAUSE: Duration = Duration::from_secs(2);
const RUN: Duration = Duration::from_millis(200);
/// How often the links are looked at.
const LOOK: Duration = Duration::from_millis(1);

/// What was deregistered on links, and may still be registered natively.
#[derive(Default)]
pub(super) struct Leftovers {
    /// Connections may keep it.
    kept: HashMap<RegionId, Weak<Memory>>,
    /// The library refused.
    refused: HashMap<RegionId, Error>,
}

impl Shared {
    fn leftovers(&self) -> MutexGuard<'_, Leftovers> {
        self.leftovers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A link has deregistered a region, or was refused.
    pub(super) fn left_over(&self, region: RegionId, memory: &Arc<Memory>, done: Result<()>) {
        let mut leftovers = self.leftovers();
        if let Err(error) = done {
            leftovers.refused.insert(region, error);
        }
        if self.native.limits().reconnect_for_regions {
            // Of regions that are no more nobody asks.
            leftovers.kept.retain(|_, memory| memory.strong_count() > 0);
            leftovers.kept.insert(region, Arc::downgrade(memory));
        }
    }

    /// See [`Transport::forget`](ropeway_transport::Transport::forget).
    pub(super) fn forget(&self, region: RegionId, deadline: Instant) -> Result<()> {
        let _alone = loop {
            match self.forgetting.try_lock() {
                Ok(alone) => break alone,
                Err(TryLockError::Poisoned(poisoned)) => break poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => wait(deadline).map_err(|()| late(region, "another one"))?,
            }
        };
        loop {
            let holder = self.links().into_iter().find(|link| link.withdraw(region) != Fenced::Now);
            let Some(holder) = holder else { break };
            wait(deadline).map_err(|()| late(region, &holder.name()))?;
        }
        if let Some(error) = self.leftovers().refused.get(&region) {
            return Err(error.clone());
        }
        let kept = self.leftovers().kept.get(&region).and_then(Weak::upgrade);
        if let Some(memory) = kept {
            self.wrest(region, &memory, deadline)?;
        }
        self.leftovers().kept.remove(&region);
        Ok(())
    }

    /// Ends the connections that keep a registration.
    fn wrest(&self, region: RegionId, memory: &Arc<Memory>, deadline: Instant) -> Result<()> {
        loop {
            match self.native.holds(memory) {
                Holds::No => return Ok(()),
                Holds::ForAnother => return Err(shared_with_another(region)),
                Holds::WhileConnected => {}
            }
            let links = self.links();
            let links: Vec<_> = links.into_iter().filter(|link| link.stage() < Stage::Closed).collect();
            // One that is being made is done with that first; nobody is to stand still for it.
            if let Some(opening) = links.iter().find(|link| link.is_opening()) {
                wait(deadline).map_err(|()| late(region, &opening.name()))?;
                continue;
            }
            let number = self.pauses.fetch_add(1, Ordering::Relaxed) + 1;
            links.iter().for_each(|link| link.pause(number));
            let until = deadline.min(Instant::now() + PAUSE);
            let holder = loop {
                let Some(holder) = links.iter().find(|link| !link.is_apart(number)) else { break None };
                if wait(until).is_err() {
                    break Some(holder.name());
                }
            };
            let held = if holder.is_none() { self.native.holds_apart(memory) } else { Holds::WhileConnected };
            links.iter().for_each(|link| link.go_on());
            match held {
                Holds::No => return Ok(()),
                Holds::ForAnother => return Err(shared_with_another(region)),
                Holds::WhileConnected => {}
            }
            let name = holder.unwrap_or_else(|| format!("a new link by {}", self.native.kind()));
            wait(deadline).map_err(|()| late(region, &name))?;
            std::thread::sleep(RUN.min(deadline.saturating_duration_since(Instant::now())));
        }
    }
}

impl LinkCore {
    /// In words.
    fn name(&self) -> String {
        format!("the link to peer {} by {}", self.peer, self.kind())
    }

    /// Batches stand still, and the native link is ended once nothing is in flight.
    fn pause(&self, number: u64) {
        // One that ends disconnects by itself.
        if self.stage() == Stage::Open {
            self.tell_lane(Event::Pause(number));
        }
    }

    /// Whether it is being made, and may have a native link.
    fn is_opening(&self) -> bool {
        self.stage() == Stage::Waiting && self.try_mover().is_none_or(|mover| mover.is_some())
    }

    /// Whether there is no native link in our direction, until the pause ends.
    fn is_apart(&self, number: u64) -> bool {
        match self.stage() {
            Stage::Waiting => !self.is_opening(),
            Stage::Open => self.tables().apart == number,
            Stage::Ending => self.tables().ending.is_torn_down(),
            Stage::Closed => true,
        }
    }

    /// Nothing is in flight, and nothing is posted until [`Self::go_on`]. On a slow thread.
    pub(super) fn part(&self, number: u64) {
        if let Some(mover) = self.mover().as_mut() {
            // Nothing is in flight: what it proves does not matter.
            mover.disconnect(self.shared.timing.disconnect);
        }
        self.tables().apart = number;
    }

    fn go_on(&self) {
        self.tell_lane(Event::GoOn);
    }
}

/// A moment, unless the time is up.
fn wait(until: Instant) -> Result<(), ()> {
    if Instant::now() >= until {
        return Err(());
    }
    std::thread::sleep(LOOK);
    Ok(())
}

fn late(region: RegionId, holder: &str) -> Error {
    let text = format!("region {region} is still registered: {holder} has not let go of it in time");
    Error::new(ErrorKind::TimedOut, "deregister", text)
}

fn shared_with_another(region: RegionId) -> Error {
    let text = format!(
        "region {region} shares its native registration with another region of the same allocation; close or suspend that \
         one, too"
    );
    Error::new(ErrorKind::TimedOut, "deregister", text)
}
