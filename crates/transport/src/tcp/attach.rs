//! How a data connection proves which link it belongs to: the acceptor's nonce, the connector's claim, the acceptor's
//! answer. Both know the link's key; neither sends it. A recorded claim is worth nothing under another nonce.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use blake2::Blake2sMac;
use blake2::digest::consts::U32;
use blake2::digest::{KeyInit, Mac};
use ropeway_core::{Error, ErrorKind};

use super::socket;
use super::wire::Seal;
use crate::LinkKey;

/// First bytes of each side.
const MAGIC: [u8; 8] = *b"ROPEWAYt";
/// Version of the data stream. Told in clear, covered by the claim's MAC.
const VERSION: u16 = 1;
pub(super) const NONCE_BYTES: usize = 16;
/// Magic, version, two reserved bytes, nonce.
pub(super) const HELLO_BYTES: usize = 28;
/// Magic, version, lane, lanes, two reserved bytes, link id, nonce, MAC.
pub(super) const CLAIM_BYTES: usize = 80;
/// Magic, MAC.
pub(super) const WELCOME_BYTES: usize = 40;

pub(super) type Nonce = [u8; NONCE_BYTES];

/// Names a link to an acceptor without telling its key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct LinkId(pub(super) [u8; 16]);

impl LinkId {
    pub(super) fn of(key: &LinkKey) -> Self {
        let full = derive(key, b"ropeway tcp link id", &[]);
        let mut id = [0; 16];
        id.copy_from_slice(&full[..16]);
        Self(id)
    }
}

/// The connector's message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Claim {
    pub(super) link: LinkId,
    pub(super) lane: u16,
    pub(super) lanes: u16,
    pub(super) nonce: Nonce,
    mac: [u8; 32],
}

pub(super) fn hello(nonce: &Nonce) -> [u8; HELLO_BYTES] {
    let mut out = [0; HELLO_BYTES];
    out[..8].copy_from_slice(&MAGIC);
    out[8..10].copy_from_slice(&VERSION.to_le_bytes());
    out[12..].copy_from_slice(nonce);
    out
}

fn hello_decode(bytes: &[u8; HELLO_BYTES]) -> Result<Nonce, &'static str> {
    if bytes[..8] != MAGIC {
        return Err("it does not speak the data protocol");
    }
    if bytes[8..10] != VERSION.to_le_bytes() {
        return Err("it speaks another version of the data protocol");
    }
    let mut nonce = [0; NONCE_BYTES];
    nonce.copy_from_slice(&bytes[12..]);
    Ok(nonce)
}

impl Claim {
    pub(super) fn new(key: &LinkKey, theirs: &Nonce, ours: Nonce, lane: u16, lanes: u16) -> Self {
        let mut claim = Self { link: LinkId::of(key), lane, lanes, nonce: ours, mac: [0; 32] };
        claim.mac = claim.expected(key, theirs);
        claim
    }

    pub(super) fn encode(&self) -> [u8; CLAIM_BYTES] {
        let mut out = [0; CLAIM_BYTES];
        out[..48].copy_from_slice(&self.covered());
        out[48..].copy_from_slice(&self.mac);
        out
    }

    fn covered(&self) -> [u8; 48] {
        let mut out = [0; 48];
        out[..8].copy_from_slice(&MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out[10..12].copy_from_slice(&self.lane.to_le_bytes());
        out[12..14].copy_from_slice(&self.lanes.to_le_bytes());
        out[16..32].copy_from_slice(&self.link.0);
        out[32..48].copy_from_slice(&self.nonce);
        out
    }

    /// Reads a claim; whether it is true, [`Self::holds`] tells.
    pub(super) fn decode(bytes: &[u8; CLAIM_BYTES]) -> Result<Self, &'static str> {
        if bytes[..8] != MAGIC {
            return Err("it does not speak the data protocol");
        }
        if bytes[8..10] != VERSION.to_le_bytes() {
            return Err("it speaks another version of the data protocol");
        }
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let (mut link, mut nonce, mut mac) = ([0; 16], [0; NONCE_BYTES], [0; 32]);
        link.copy_from_slice(&bytes[16..32]);
        nonce.copy_from_slice(&bytes[32..48]);
        mac.copy_from_slice(&bytes[48..]);
        let claim = Self { link: LinkId(link), lane: half(10), lanes: half(12), nonce, mac };
        if claim.lane >= claim.lanes || bytes[14..16] != [0, 0] {
            return Err("its claim is malformed");
        }
        Ok(claim)
    }

    fn expected(&self, key: &LinkKey, acceptor: &Nonce) -> [u8; 32] {
        derive(key, b"ropeway tcp claim", &[&self.covered(), acceptor])
    }

    /// Whether whoever made the claim holds the key and saw our nonce.
    pub(super) fn holds(&self, key: &LinkKey, ours: &Nonce) -> bool {
        let mut mac = keyed(key, b"ropeway tcp claim");
        mac.update(&self.covered());
        mac.update(ours);
        mac.verify_slice(&self.mac).is_ok()
    }
}

pub(super) fn welcome(key: &LinkKey, claim: &Claim, ours: &Nonce) -> [u8; WELCOME_BYTES] {
    let mut out = [0; WELCOME_BYTES];
    out[..8].copy_from_slice(&MAGIC);
    out[8..].copy_from_slice(&derive(key, b"ropeway tcp welcome", &[&claim.covered(), ours]));
    out
}

fn welcome_holds(bytes: &[u8; WELCOME_BYTES], key: &LinkKey, claim: &Claim, theirs: &Nonce) -> bool {
    let mut mac = keyed(key, b"ropeway tcp welcome");
    mac.update(&claim.covered());
    mac.update(theirs);
    bytes[..8] == MAGIC && mac.verify_slice(&bytes[8..]).is_ok()
}

/// The seals of one connection: (connector to acceptor, acceptor to connector).
pub(super) fn seals(key: &LinkKey, claim: &Claim, acceptor: &Nonce) -> (Seal, Seal) {
    let of = |label: &[u8]| Seal::new(derive(key, label, &[&claim.covered(), acceptor]));
    (of(b"ropeway tcp to acceptor"), of(b"ropeway tcp to connector"))
}

fn keyed(key: &LinkKey, label: &[u8]) -> Blake2sMac<U32> {
    let mut mac =
        <Blake2sMac<U32> as KeyInit>::new_from_slice(&key.0).expect("blake2s takes 32 bytes of key");
    mac.update(label);
    mac.update(&[0]);
    mac
}

fn derive(key: &LinkKey, label: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = keyed(key, label);
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// 16 random bytes, fresh for each connection.
pub(super) fn nonce() -> Result<Nonce, Error> {
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce).map_err(|error| {
        Error::new(ErrorKind::Resource, "link", format!("no random bytes from the operating system: {error}"))
    })?;
    Ok(nonce)
}

/// Connects one lane and proves both sides to each other. Blocks until `deadline` at most. Gives the stream, still
/// blocking, with the seals of what we send and what we receive.
pub(super) fn connect(
    address: SocketAddr,
    key: &LinkKey,
    lane: u16,
    lanes: u16,
    deadline: Instant,
) -> Result<(TcpStream, Seal, Seal), Error> {
    let failed = |what: &str, error: io::Error| {
        let kind = match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => ErrorKind::TimedOut,
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => ErrorKind::Denied,
            _ => ErrorKind::LinkLost,
        };
        Error::new(kind, "link", format!("tcp data stream {lane} to {address}: {what}: {error}"))
            .with_source(error)
    };
    let left = || deadline.saturating_duration_since(Instant::now()).max(std::time::Duration::from_millis(1));
    let mut stream =
        TcpStream::connect_timeout(&address, left()).map_err(|e| failed("not to be reached", e))?;
    socket::tune(&stream);
    let mut exact = Deadline { stream: &mut stream, deadline };
    let mut bytes = [0; HELLO_BYTES];
    exact.read(&mut bytes).map_err(|e| failed("no greeting", e))?;
    let theirs = hello_decode(&bytes)
        .map_err(|why| Error::new(ErrorKind::Mismatch, "link", format!("tcp data port {address}: {why}")))?;
    let claim = Claim::new(key, &theirs, nonce()?, lane, lanes);
    exact.write(&claim.encode()).map_err(|e| failed("the claim was not taken", e))?;
    let mut bytes = [0; WELCOME_BYTES];
    exact.read(&mut bytes).map_err(|e| failed("the claim was refused", e))?;
    if !welcome_holds(&bytes, key, &claim, &theirs) {
        return Err(Error::new(
            ErrorKind::Denied,
            "link",
            format!("tcp data port {address} does not know the link's key; is it another engine's?"),
        ));
    }
    let (ours, others) = seals(key, &claim, &theirs);
    Ok((stream, ours, others))
}

/// Whole reads and writes on a blocking stream, with one deadline for all of them.
struct Deadline<'a> {
    stream: &'a mut TcpStream,
    deadline: Instant,
}

impl Deadline<'_> {
    fn left(&self) -> io::Result<Option<std::time::Duration>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }

    fn read(&mut self, mut into: &mut [u8]) -> io::Result<()> {
        while !into.is_empty() {
            self.stream.set_read_timeout(self.left()?)?;
            match self.stream.read(into) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => into = &mut into[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write_all(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: LinkKey = LinkKey([5; 32]);

    #[test]
    fn a_claim_holds_under_its_nonce_and_key_only() {
        let claim = Claim::new(&KEY, &[1; 16], [2; 16], 0, 2);
        let read = Claim::decode(&claim.encode()).unwrap();
        assert_eq!(read, claim);
        assert!(read.holds(&KEY, &[1; 16]));
        assert!(!read.holds(&KEY, &[3; 16]), "a recorded claim under another nonce");
        assert!(!read.holds(&LinkKey([6; 32]), &[1; 16]), "another key");
        let mut changed = claim.encode();
        changed[10] = 1;
        assert!(!Claim::decode(&changed).unwrap().holds(&KEY, &[1; 16]), "another lane");
    }

    #[test]
    fn a_welcome_proves_the_acceptor() {
        let claim = Claim::new(&KEY, &[1; 16], [2; 16], 0, 1);
        assert!(welcome_holds(&welcome(&KEY, &claim, &[1; 16]), &KEY, &claim, &[1; 16]));
        assert!(!welcome_holds(&welcome(&LinkKey([6; 32]), &claim, &[1; 16]), &KEY, &claim, &[1; 16]));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_claim_decoder_panic(bytes: Vec<u8>, fix: bool) {
            let mut claim = [0; CLAIM_BYTES];
            let count = bytes.len().min(CLAIM_BYTES);
            claim[..count].copy_from_slice(&bytes[..count]);
            if fix {
                claim[..10].copy_from_slice(&Claim::new(&KEY, &[0; 16], [0; 16], 0, 1).encode()[..10]);
            }
            if let Ok(claim) = Claim::decode(&claim) {
                prop_assert!(!claim.holds(&KEY, &[1; 16]));
            }
        }
    }
}
