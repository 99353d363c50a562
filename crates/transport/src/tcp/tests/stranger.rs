//! A peer that speaks the protocol by hand, so that it can break it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use ropeway_core::{GrantId, Runs};

use super::{Engine, eventually};
use crate::tcp::attach;
use crate::tcp::wire::{HEADER_BYTES, Header, Kind, MAC_BYTES, RequestBody, Seal};
use crate::{LinkKey, Role};

pub(super) const KEY: LinkKey = LinkKey([9; 32]);

/// The streams of a link to an engine.
pub(super) struct Port {
    pub(super) lanes: Vec<Stranger>,
}

/// One stream.
pub(super) struct Stranger {
    pub(super) stream: TcpStream,
    pub(super) ours: Seal,
    pub(super) theirs: Seal,
}

impl Port {
    /// The engine waits, the stranger comes and proves itself.
    pub(super) fn attach(engine: &Engine) -> Self {
        engine.linked(KEY, Role::Passive, Bytes::new());
        let lanes = (0..2).map(|lane| Stranger::attach(engine, lane, 2)).collect();
        eventually(|| engine.sink.attached.load(Ordering::SeqCst));
        Self { lanes }
    }
}

impl Stranger {
    pub(super) fn attach(engine: &Engine, lane: u16, lanes: u16) -> Self {
        let address = engine.tcp.address().unwrap();
        let deadline = Instant::now() + super::engine::WATCHDOG;
        let (stream, ours, theirs) = attach::connect(address, &KEY, lane, lanes, deadline).unwrap();
        stream.set_read_timeout(Some(super::engine::WATCHDOG)).unwrap();
        stream.set_write_timeout(Some(super::engine::WATCHDOG)).unwrap();
        Self { stream, ours, theirs }
    }

    pub(super) fn send(&mut self, header: &Header) {
        let bytes = self.ours.seal(header);
        self.stream.write_all(&bytes).unwrap();
    }

    /// A whole request in one segment.
    pub(super) fn request(&mut self, kind: Kind, id: u64, grant: GrantId, runs: &dyn Runs) {
        let mut body = BytesMut::new();
        body.extend_from_slice(&RequestBody::fixed(grant, 0, runs.total_bytes()));
        runs.encode(&mut body);
        self.request_body(kind, id, &body);
    }

    pub(super) fn request_body(&mut self, kind: Kind, id: u64, body: &[u8]) {
        let length = (body.len() + MAC_BYTES) as u32;
        let mut bytes = self.ours.seal(&Header::segment(kind, id, 0, length, false)).to_vec();
        bytes.extend_from_slice(body);
        bytes.extend_from_slice(&self.ours.seal_body(id, body));
        self.stream.write_all(&bytes).unwrap();
    }

    pub(super) fn receive(&mut self) -> Header {
        let mut bytes = [0; HEADER_BYTES];
        self.stream.read_exact(&mut bytes).unwrap();
        self.theirs.open(&bytes).unwrap()
    }

    /// Reads a request and throws its body away.
    pub(super) fn take_request(&mut self) -> Header {
        let header = self.receive();
        assert!(matches!(header.kind, Kind::ReadRequest | Kind::WriteRequest));
        self.skip(header.length);
        header
    }

    pub(super) fn skip(&mut self, bytes: u32) {
        self.take(bytes);
    }

    pub(super) fn take(&mut self, bytes: u32) -> Vec<u8> {
        let mut taken = vec![0; bytes as usize];
        self.stream.read_exact(&mut taken).unwrap();
        taken
    }

    /// Takes the data of a read and its end.
    pub(super) fn drain_read(&mut self, id: u64) -> (u64, Header) {
        let mut bytes = 0;
        loop {
            let header = self.receive();
            assert_eq!(header.id, id);
            if header.kind != Kind::ReadData {
                return (bytes, header);
            }
            bytes += u64::from(header.length);
            self.skip(header.length);
        }
    }

    /// Whether the engine has closed the connection.
    pub(super) fn is_dropped(&mut self) -> bool {
        self.stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut bin = [0; 4096];
        loop {
            match self.stream.read(&mut bin) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
            }
        }
    }
}
