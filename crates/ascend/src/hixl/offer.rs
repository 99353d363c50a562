//! What two HIXL engines tell each other before a link, and which way joins them.

use std::net::{IpAddr, SocketAddr};

use bytes::{BufMut, Bytes, BytesMut};
use ropeway_core::wire::{Reader, WireError};
use ropeway_core::{Error, ErrorKind, Result};

use super::way::{Way, Ways};
use crate::node::{Chip, Identity, NpuIds, SuperPod};

const VERSION: u8 = 1;
const NAME_BYTES_MAX: usize = 128;
const RELEASE_BYTES_MAX: usize = 64;
const ENGINE_BYTES_MAX: usize = 64;

/// Which interface of HIXL an engine speaks by. The two do not understand each other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Api {
    /// The C++ class, through the shim.
    #[default]
    Class,
    /// The C functions of CANN 9.1 and later.
    C,
}

impl Api {
    /// The name in flags and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Class => "class",
            Self::C => "C",
        }
    }
}

/// Which of HIXL's engines works inside.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mode {
    /// Endpoints, servers and clients: fast with blocks of the size of KV.
    ClientServer,
    /// One HCCL communicator for each link: what older releases have.
    Communicator,
}

impl Mode {
    /// The name in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClientServer => "client/server",
            Self::Communicator => "communicator",
        }
    }

    /// How many regions an engine can register.
    pub const fn regions_max(self) -> u32 {
        match self {
            Self::ClientServer => 4_096,
            Self::Communicator => 256,
        }
    }

    /// How many links an engine can have; `None` where there is no fixed number.
    pub const fn links_max(self) -> Option<u32> {
        match self {
            Self::ClientServer => None,
            Self::Communicator => Some(512),
        }
    }
}

/// One engine's facts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    /// How it speaks.
    pub api: Api,
    /// What works inside.
    pub mode: Mode,
    /// HIXL's release; both ends need the same one.
    pub release: String,
    /// Where it listens; with the C interface, its server.
    pub engine: SocketAddr,
    /// The node.
    pub node: String,
    /// The HCCS island.
    pub island: String,
    /// The chip.
    pub chip: Chip,
    /// Its numbers. The user id means nothing to others and is not sent.
    pub ids: NpuIds,
    /// The ways that it has.
    pub ways: Ways,
    /// The address of the NPU's network port.
    pub nic: Option<IpAddr>,
    /// Tells this engine from an earlier one at the same address: a random number.
    pub life: u64,
}

impl Offer {
    /// Whether `identity` and `ids` name the NPU that made this offer.
    pub fn is_same_npu(&self, identity: &Identity, ids: NpuIds) -> bool {
        self.node == identity.node && self.ids.physical == ids.physical
    }

    /// The way by which HIXL joins the two.
    ///
    /// # Errors
    /// Why there is none: one NPU, unlike releases or modes, no common way. The message is fit for a log of `auto`.
    pub fn way_to(&self, peer: &Self) -> Result<Way> {
        let refused = |kind, message: String| Err(Error::new(kind, "link over HIXL", message));
        let differ = |what: &str, ours: &str, theirs: &str| {
            let message =
                format!("{what} differs: {ours} here, {theirs} at the peer; both ends need the same");
            refused(ErrorKind::Mismatch, message)
        };
        if self.node == peer.node && self.ids.physical == peer.ids.physical {
            let message = format!(
                "both ends are on NPU {} of node {}, and HIXL does not link an NPU with itself; ipc copies within it",
                self.ids.physical, self.node
            );
            return refused(ErrorKind::Unsupported, message);
        }
        if self.api != peer.api {
            return differ("HIXL's interface (hixl_api)", self.api.name(), peer.api.name());
        }
        if self.release != peer.release {
            return differ("HIXL's release", &self.release, &peer.release);
        }
        if self.mode != peer.mode {
            return differ("HIXL's engine", self.mode.name(), peer.mode.name());
        }
        let common = self.ways.common(peer.ways);
        let same_island = self.island == peer.island;
        for way in [Way::Ub, Way::Hccs, Way::Roce] {
            if common.has(way) && (same_island || way != Way::Hccs) {
                return Ok(way);
            }
        }
        let lacking = match (self.ways.has(Way::Roce), peer.ways.has(Way::Roce)) {
            (true, false) => "the peer has",
            (false, true) => "this side has",
            _ => "neither side has",
        };
        let message = format!(
            "{lacking} no address of its NPU's network port, and node {} ({}) and node {} ({}) are not joined by HCCS or UB; \
             mount the node's /etc/hccn.conf, or name both nodes alike where they are one (ROPEWAY_NODE)",
            self.node, self.chip, peer.node, peer.chip
        );
        refused(ErrorKind::Unsupported, message)
    }

    /// As it travels.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(512);
        out.put_u8(VERSION);
        out.put_u8(match self.api {
            Api::Class => 0,
            Api::C => 1,
        });
        out.put_u8(match self.mode {
            Mode::ClientServer => 0,
            Mode::Communicator => 1,
        });
        out.put_u8(match self.chip {
            Chip::Other => 0,
            Chip::A2 => 1,
            Chip::A3 => 2,
            Chip::Ascend950 => 3,
        });
        out.put_u8(self.ways.bits());
        out.put_u32_le(self.ids.physical);
        out.put_u8(self.ids.super_pod.is_some().into());
        if let Some(pod) = self.ids.super_pod {
            out.put_u32_le(pod.id);
            out.put_u32_le(pod.server);
            out.put_u32_le(pod.device);
        }
        put_text(&mut out, &self.release);
        put_text(&mut out, &self.engine.to_string());
        put_text(&mut out, &self.node);
        put_text(&mut out, &self.island);
        put_text(&mut out, &self.nic.map(|nic| nic.to_string()).unwrap_or_default());
        out.put_u64_le(self.life);
        out.freeze()
    }

    /// Reads a peer's.
    ///
    /// # Errors
    /// `Protocol`: it is malformed, or of a version that this one does not know.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        Ok(Self::read(&mut Reader::new(bytes))?)
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
        let version = from.u8()?;
        if version != VERSION {
            return Err(WireError::Unknown { what: "version of a HIXL offer", value: version.into() });
        }
        let api = match from.u8()? {
            0 => Api::Class,
            1 => Api::C,
            value => return Err(WireError::Unknown { what: "HIXL interface", value: value.into() }),
        };
        let mode = match from.u8()? {
            0 => Mode::ClientServer,
            1 => Mode::Communicator,
            value => return Err(WireError::Unknown { what: "HIXL engine", value: value.into() }),
        };
        let chip = match from.u8()? {
            1 => Chip::A2,
            2 => Chip::A3,
            3 => Chip::Ascend950,
            _ => Chip::Other,
        };
        let ways = Ways::from_bits(from.u8()?);
        let physical = from.u32()?;
        let super_pod = match from.bool("super-pod")? {
            true => Some(SuperPod { id: from.u32()?, server: from.u32()?, device: from.u32()? }),
            false => None,
        };
        let release = from.text("release", RELEASE_BYTES_MAX)?.to_owned();
        let engine = from.text("engine", ENGINE_BYTES_MAX)?.parse();
        let engine = engine.map_err(|_| WireError::Value { what: "engine" })?;
        let node = from.text("node", NAME_BYTES_MAX)?.to_owned();
        let island = from.text("island", NAME_BYTES_MAX)?.to_owned();
        let nic = match from.text("network address", ENGINE_BYTES_MAX)? {
            "" => None,
            text => Some(text.parse().map_err(|_| WireError::Value { what: "network address" })?),
        };
        let life = from.u64()?;
        // What a later version adds behind it is left alone.
        let ids = NpuIds { user: 0, physical, super_pod };
        Ok(Self { api, mode, release, engine, node, island, chip, ids, ways, nic, life })
    }
}

fn put_text(out: &mut BytesMut, text: &str) {
    out.put_u16_le(text.len() as u16);
    out.put_slice(text.as_bytes());
}

/// Takes any bytes for an offer: what is understood is said the same.
#[cfg(fuzzing)]
pub(crate) fn fuzz(bytes: &[u8]) {
    if let Ok(offer) = Offer::decode(bytes) {
        assert_eq!(Offer::decode(&offer.encode()).ok(), Some(offer));
    }
}
