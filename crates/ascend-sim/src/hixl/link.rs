//! A link to one peer: opened by the side that uses it, and good for that side only.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::endpoint::{Identity, Way, choose};
use super::passive::{Passive, notify_outcome};
use super::regions::Regions;
use super::status::{FAILED, Outcome, TIMEOUT};
use super::wire::{Answer, Ask, Reached, decode, encode, open_all};
use crate::dma::Mover;
use crate::net::{Broken, Channel, Watch};
use crate::topology::Topology;

/// An open link.
pub(crate) struct Link {
    /// What carries it.
    pub(crate) way: Way,
    /// The peer, as it was when the link was made.
    pub(crate) peer: Identity,
    /// Moves its bytes.
    pub(crate) mover: Mover,
    /// Regions of this side, as they were when the link was made.
    pub(crate) near: Regions<Reached>,
    /// Regions of the peer, as they were when the link was made.
    pub(crate) far: Regions<Reached>,
    channel: Mutex<Channel>,
    watch: Watch,
}

/// How a link is made.
pub(crate) struct Making<'a> {
    /// This side.
    pub(crate) near: &'a Passive,
    /// Where the peer listens.
    pub(crate) at: SocketAddr,
    /// RoCE also where HCCS reaches.
    pub(crate) intra_roce: bool,
    /// The machines.
    pub(crate) machines: &'a Topology,
    /// The peer was started anew, and has registered nothing yet.
    pub(crate) forgotten: bool,
}

/// HIXL's number for a control connection that failed.
pub(crate) fn status_of(broken: Broken) -> u32 {
    match broken {
        Broken::Timeout => TIMEOUT,
        Broken::Closed => FAILED,
    }
}

impl Link {
    /// Connects, learns who and what is there, chooses the way and maps the peer's regions.
    pub(crate) fn open(making: &Making<'_>, deadline: Instant) -> Outcome<Self> {
        let mut channel = Channel::open(making.at, deadline).map_err(status_of)?;
        let ask = encode(&Ask::Hello(Box::new(making.near.identity.clone())));
        let answer = channel.ask(&ask, deadline).map_err(status_of)?;
        let Some(Answer::Here(peer, mut regions)) = decode(&answer) else { return Err(FAILED) };
        if making.forgotten {
            regions.clear();
        }
        let Some(way) = choose(&making.near.identity, &peer, making.intra_roce, making.machines) else {
            tracing::warn!(peer = peer.name, "no way to this engine");
            return Err(FAILED);
        };
        let near = making.near.regions().iter().map(|local| local.reached.clone()).collect();
        let watch = channel.watch().ok_or(FAILED)?;
        Ok(Self {
            way,
            peer: *peer,
            mover: Mover::new(),
            near,
            far: open_all(&regions),
            channel: Mutex::new(channel),
            watch,
        })
    }

    /// Whether the peer hung up: its process ended, or its engine did.
    pub(crate) fn is_gone(&self) -> bool {
        self.watch.is_closed()
    }

    /// Sends a notify and waits until the peer has it.
    pub(crate) fn notify(&self, name: &[u8], message: &[u8], deadline: Instant) -> Outcome {
        let ask = encode(&Ask::Notify { name: name.to_vec(), message: message.to_vec() });
        let mut channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = channel.ask(&ask, deadline).map_err(status_of)?;
        drop(channel);
        notify_outcome(decode(&answer))
    }
}
