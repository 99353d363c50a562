//! What the two processes say to each other: a length, JSON, a length, bytes.

use std::io::{Read, Write};

use ropeway::{Error, ErrorKind};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Exchange, Layout};

/// A wish.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Ask {
    Open {
        kind: String,
        streams: u32,
        c_api: bool,
        bytes: u64,
        limits: Vec<(String, u64)>,
    },
    Descriptor,
    Len,
    Peers,
    Register {
        bytes: u64,
    },
    Publish {
        id: u64,
        name: String,
        layout: Layout,
    },
    PublishRaw {
        id: u64,
        name: String,
    },
    Fill {
        at: u64,
        len: u64,
        byte: u8,
    },
    Read {
        at: u64,
        len: u64,
    },
    Write {
        at: u64,
    },
    CloseRegion {
        ms: u64,
    },
    Suspend {
        ms: u64,
    },
    Resume,
    Grant {
        id: u64,
        cache: u64,
        ids: Vec<Vec<u32>>,
        write: bool,
        ttl: Option<u64>,
        grace: Option<u64>,
        event: Option<u64>,
    },
    Revoke {
        lease: u64,
    },
    WaitFree {
        lease: u64,
        ms: u64,
    },
    Arrived {
        lease: u64,
        sequence: u32,
    },
    Failed {
        lease: u64,
        sequence: u32,
    },
    Arrivals {
        lease: u64,
    },
    WaitArrivals {
        lease: u64,
        count: u32,
        ms: u64,
    },
    NewEvent {
        id: u64,
    },
    Fire {
        event: u64,
    },
    Fail {
        event: u64,
        native: i32,
    },
    Exchange {
        cache: u64,
        exchange: Exchange,
    },
    Drop {
        id: u64,
    },
    DropAll,
    IsMemoryGone,
    Forbid,
    Allow,
    CloseEngine {
        ms: u64,
    },
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Done,
    Truth(bool),
    Number(u64),
    Text(String),
    Texts(Vec<String>),
    Freed(Option<String>),
    Error { kind: String, message: String, native: Option<i32> },
}

impl From<&Error> for Answer {
    fn from(error: &Error) -> Self {
        let (kind, message) = (error.kind().label().to_owned(), error.message().to_owned());
        Self::Error { kind, message, native: error.native() }
    }
}

const KINDS: [ErrorKind; 16] = [
    ErrorKind::ApiMisuse,
    ErrorKind::OutOfBounds,
    ErrorKind::Mismatch,
    ErrorKind::StaleLease,
    ErrorKind::Denied,
    ErrorKind::Full,
    ErrorKind::PeerGone,
    ErrorKind::LinkLost,
    ErrorKind::TimedOut,
    ErrorKind::Cancelled,
    ErrorKind::Unsupported,
    ErrorKind::Protocol,
    ErrorKind::Resource,
    ErrorKind::Closed,
    ErrorKind::Forked,
    ErrorKind::Internal,
];

impl Answer {
    /// The answer, or the error that it is.
    pub(super) fn ok(self) -> ropeway::Result<Self> {
        let Self::Error { kind, message, native } = self else { return Ok(self) };
        let kind = KINDS.into_iter().find(|known| known.label() == kind).expect("a kind");
        let error = Error::new(kind, "owner", message);
        Err(match native {
            Some(native) => error.with_native(native),
            None => error,
        })
    }
}

pub(super) fn send(to: &mut impl Write, message: &impl Serialize, bytes: &[u8]) -> std::io::Result<()> {
    let json = serde_json::to_vec(message)?;
    to.write_all(&(json.len() as u64).to_le_bytes())?;
    to.write_all(&json)?;
    to.write_all(&(bytes.len() as u64).to_le_bytes())?;
    to.write_all(bytes)
}

pub(super) fn receive<T: DeserializeOwned>(from: &mut impl Read) -> std::io::Result<(T, Vec<u8>)> {
    let mut piece = || {
        let mut len = [0; 8];
        from.read_exact(&mut len)?;
        let mut bytes = vec![0; u64::from_le_bytes(len) as usize];
        from.read_exact(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    let (json, bytes) = (piece()?, piece()?);
    Ok((serde_json::from_slice(&json)?, bytes))
}
