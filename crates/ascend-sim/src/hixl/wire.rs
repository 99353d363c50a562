//! What engines say to each other over TCP, as JSON: simulated engines speak to simulated ones only.

use serde::{Deserialize, Serialize};

use super::endpoint::Identity;
use super::regions::{Regions, Span};
use crate::dma::{Backing, Reach};
use crate::fail::Done;
use crate::runtime::runtime;

/// From the engine that connects.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// Who is there? Answered by [`Answer::Here`].
    Hello(Box<Identity>),
    /// A notify. Answered by [`Answer::Taken`] or [`Answer::Full`].
    Notify {
        /// Its name.
        name: Vec<u8>,
        /// Its text.
        message: Vec<u8>,
    },
}

/// From the engine that listens.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// Who answers, and its regions as they are now.
    Here(Box<Identity>, Vec<Published>),
    /// The notify waits to be fetched.
    Taken,
    /// There is no room for another notify.
    Full,
}

/// A region as the far side is told of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Published {
    /// First address, as its owner has it.
    pub(crate) start: u64,
    /// Bytes.
    pub(crate) length: u64,
    /// Of the host, not of a device.
    pub(crate) host: bool,
    /// Where its bytes are.
    pub(crate) backing: Backing,
}

/// A region that this process can reach, its own or a peer's.
#[derive(Clone, Debug)]
pub(crate) struct Reached {
    /// First address, as its owner has it.
    pub(crate) start: u64,
    /// Bytes.
    pub(crate) length: u64,
    /// Of the host, not of a device.
    pub(crate) host: bool,
    /// Where its bytes are.
    pub(crate) reach: Reach,
}

impl Span for Reached {
    fn start(&self) -> u64 {
        self.start
    }

    fn length(&self) -> u64 {
        self.length
    }
}

impl Reached {
    /// Maps what is to be mapped.
    pub(crate) fn open(region: &Published) -> Done<Self> {
        let Published { start, length, host, ref backing } = *region;
        let reach = Reach::open(&runtime()?.hbm, start, backing, length)?;
        Ok(Self { start, length, host, reach })
    }
}

/// Opens a list of regions; those that cannot be opened are left out, so that their use fails.
pub(crate) fn open_all(published: &[Published]) -> Regions<Reached> {
    let opened = published.iter().filter_map(|region| match Reached::open(region) {
        Ok(opened) => Some(opened),
        Err(error) => {
            tracing::warn!(%error, start = region.start, "a peer's region cannot be mapped");
            None
        }
    });
    opened.collect()
}

/// To bytes.
pub(crate) fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    serde_json::to_vec(message).unwrap_or_else(|error| {
        tracing::error!(%error, "a control message cannot be written");
        Vec::new()
    })
}

/// From bytes; nothing for what is no message.
pub(crate) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    serde_json::from_slice(bytes).ok()
}
