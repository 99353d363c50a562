//! The side that is connected to: says who it is and what it has, and takes notifies. Data goes past it.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::endpoint::Identity;
use super::regions::{Regions, Span};
use super::status::{NOTIFY_FAILED, Outcome, PARAM_INVALID};
use super::wire::{Answer, Ask, Published, Reached, decode, encode};
use crate::net::Handler;

/// Notifies that may wait at a receiver.
const NOTIFIES_MAX: usize = 4096;
/// Bytes of a notify's name and of its message.
pub(crate) const NOTIFY_BYTES_MAX: usize = 1024;

/// A region of this engine.
pub(crate) struct Local {
    /// What peers are told.
    pub(crate) published: Published,
    /// How this process reaches it.
    pub(crate) reached: Reached,
    /// What the caller has for it.
    pub(crate) handle: usize,
}

impl Span for Local {
    fn start(&self) -> u64 {
        self.published.start
    }

    fn length(&self) -> u64 {
        self.published.length
    }
}

/// A notify: name and message.
pub(crate) type Notify = (Vec<u8>, Vec<u8>);

/// What peers can see of an engine.
pub(crate) struct Passive {
    /// Who it is.
    pub(crate) identity: Identity,
    regions: Mutex<Regions<Local>>,
    notifies: Mutex<VecDeque<Notify>>,
}

impl Passive {
    pub(crate) fn new(identity: Identity) -> Self {
        Self { identity, regions: Mutex::default(), notifies: Mutex::default() }
    }

    /// The regions, locked.
    pub(crate) fn regions(&self) -> MutexGuard<'_, Regions<Local>> {
        self.regions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes all notifies.
    pub(crate) fn take_notifies(&self) -> VecDeque<Notify> {
        std::mem::take(&mut *self.notifies.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn push(&self, notify: Notify) -> Answer {
        let mut notifies = self.notifies.lock().unwrap_or_else(PoisonError::into_inner);
        if notifies.len() >= NOTIFIES_MAX {
            return Answer::Full;
        }
        notifies.push_back(notify);
        Answer::Taken
    }
}

impl Handler for Passive {
    fn answer(&self, connection: u64, frame: &[u8]) -> Option<Vec<u8>> {
        let answer = match decode(frame)? {
            Ask::Hello(from) => {
                tracing::debug!(connection, from = from.name, "an engine connected");
                let regions = self.regions().iter().map(|local| local.published.clone()).collect();
                Answer::Here(Box::new(self.identity.clone()), regions)
            }
            Ask::Notify { name, message } => self.push((name, message)),
        };
        Some(encode(&answer))
    }

    fn closed(&self, connection: u64) {
        tracing::debug!(connection, "an engine disconnected");
    }
}

/// Checks a notify's sizes.
pub(crate) fn check_notify(name: &[u8], message: &[u8]) -> Outcome {
    if name.len() > NOTIFY_BYTES_MAX || message.len() > NOTIFY_BYTES_MAX {
        return Err(PARAM_INVALID);
    }
    Ok(())
}

/// What the receiver's word comes to.
pub(crate) fn notify_outcome(answer: Option<Answer>) -> Outcome {
    match answer {
        Some(Answer::Taken) => Ok(()),
        _ => Err(NOTIFY_FAILED),
    }
}
