//! The handshake: both sides prove the link's key, hand over fence and cells, and read each other's memory.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use blake2::Blake2sMac256;
use blake2::digest::{KeyInit, Mac};
use memmap2::{MmapMut, MmapRaw};
use ropeway_core::{Error, ErrorKind, Result};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::host::{Host, Wire};
use super::message::{Facts, Message, Probe};
use super::process::Process;
use super::socket::{self, Received};
use crate::cma::Kernel;
use crate::fence::{CellsView, FenceView, GateId};
use crate::onesided::{Far, LinkCore, Path, Way};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::{LinkKey, TransportKind};

/// More gates or leases than any limits allow: a peer that says so is not believed.
const COUNT_MAX: u32 = 1 << 22;

/// Words that prove whose address space an address is in: the kernel reads the first with every call.
pub(super) struct Guard {
    map: MmapRaw,
    nonce: u64,
}

impl Guard {
    pub(super) fn new(nonce: u64) -> Result<Self> {
        let map =
            MmapMut::map_anon(4096).map_err(|error| Error::os("link", "mapping the guard page", error))?;
        let map = MmapRaw::from(map);
        let guard = Self { map, nonce };
        guard.word().store(nonce, Ordering::SeqCst);
        Ok(guard)
    }

    fn word(&self) -> &AtomicU64 {
        // SAFETY: a page of our own, aligned and zeroed, mapped while `self` lives; peers only read this word.
        unsafe { &*self.map.as_ptr().cast::<AtomicU64>() }
    }

    fn address(&self) -> u64 {
        self.map.as_ptr().addr() as u64
    }
}

/// One side of a link that is to be made.
pub(crate) struct Meeting {
    pub(crate) link: Arc<LinkCore>,
    key: LinkKey,
    pub(super) tag: [u8; 16],
    pub(super) deadline: Instant,
}

/// The nonces of one handshake: what its codes are bound to.
#[derive(Clone, Copy)]
pub(super) struct Nonces {
    pub(super) active: [u8; 32],
    pub(super) passive: [u8; 32],
}

/// What the handshake made known of the other side.
pub(super) struct Met {
    pub(super) fence: FenceView,
    pub(super) gate: GateId,
    pub(super) cells: CellsView,
    pub(super) way: Way,
    pub(super) probe: Probe,
}

impl Met {
    pub(super) fn far(self, wire: Arc<Wire>, process: Arc<Process>) -> Far {
        let Self { fence, gate, cells, way, .. } = self;
        Far { fence, gate, cells, way, path: Path::Socket { wire, process } }
    }
}

impl Meeting {
    pub(crate) fn new(link: Arc<LinkCore>, key: LinkKey, deadline: Instant) -> Self {
        let mut mac = hash(&key);
        mac.update(b"tag");
        mac.update(&[kind_code(link.kind())]);
        let tag = mac.finalize().into_bytes()[..16].try_into().expect("16 of 32 bytes");
        Self { link, key, tag, deadline }
    }

    pub(super) fn hello(&self, nonce: [u8; 32]) -> Message {
        Message::Hello { kind: kind_code(self.link.kind()), tag: self.tag, nonce }
    }

    pub(super) fn challenge(&self, host: &Host, nonces: &Nonces) -> Message {
        let facts = self.facts(host);
        let mac = self.mac("challenge", nonces, |out| facts.encode(out));
        Message::Challenge { nonce: nonces.passive, facts, mac: mac.finalize().into_bytes().into() }
    }

    pub(super) fn proof(&self, host: &Host, nonces: &Nonces, probe: Probe) -> Message {
        let facts = self.facts(host);
        let mac = self.mac("proof", nonces, |out| {
            facts.encode(out);
            probe.encode(out);
        });
        Message::Proof { facts, probe, mac: mac.finalize().into_bytes().into() }
    }

    pub(super) fn ready(&self, nonces: &Nonces, probe: Probe) -> Message {
        let mac = self.mac("ready", nonces, |out| probe.encode(out));
        Message::Ready { probe, mac: mac.finalize().into_bytes().into() }
    }

    pub(super) fn check_challenge(&self, nonces: &Nonces, facts: &Facts, mac: &[u8; 32]) -> Result<()> {
        verify(self.mac("challenge", nonces, |out| facts.encode(out)), mac)
    }

    pub(super) fn check_proof(
        &self,
        nonces: &Nonces,
        facts: &Facts,
        probe: &Probe,
        mac: &[u8; 32],
    ) -> Result<()> {
        let code = self.mac("proof", nonces, |out| {
            facts.encode(out);
            probe.encode(out);
        });
        verify(code, mac)
    }

    pub(super) fn check_ready(&self, nonces: &Nonces, probe: &Probe, mac: &[u8; 32]) -> Result<()> {
        verify(self.mac("ready", nonces, |out| probe.encode(out)), mac)
    }

    /// The descriptors that go with `challenge` and `proof`.
    pub(super) fn fds<'a>(&'a self, host: &'a Host) -> Result<[BorrowedFd<'a>; 2]> {
        match (host.fence().fd(), self.link.cells().fd()) {
            (Some(fence), Some(cells)) => Ok([fence, cells]),
            _ => Err(Error::new(
                ErrorKind::ApiMisuse,
                "link",
                "the engine was opened without same-host transports",
            )),
        }
    }

    /// Maps what the peer handed over, and reads its memory the way that the link will.
    pub(super) fn meet(&self, process: &Arc<Process>, facts: &Facts, fds: Vec<OwnedFd>) -> Result<Met> {
        let Ok([fence, cells]) = <[OwnedFd; 2]>::try_from(fds) else {
            return Err(broken("the peer did not hand over its fence and its cells"));
        };
        if facts.gates > COUNT_MAX || facts.grants > COUNT_MAX {
            return Err(broken("the peer's fence is larger than any limits allow"));
        }
        let fence = FenceView::map(fence, facts.gates, facts.grants)?;
        let cells = CellsView::map(cells)?;
        let gate = GateId { slot: facts.gate_slot, generation: facts.gate_generation };
        let (way, guard) = match self.link.kind() {
            TransportKind::Cma => {
                let kernel = Kernel::probe(Arc::clone(process), facts.guard)?;
                let nonce = kernel.nonce();
                (Way::Kernel(kernel), nonce)
            }
            _ => (Way::Mapped, 0),
        };
        let probe = Probe { fence: fence.nonce(), cells: cells.nonce(), guard };
        Ok(Met { fence, gate, cells, way, probe })
    }

    /// Whether the peer read of our memory what is there.
    pub(super) fn check_probe(&self, host: &Host, probe: &Probe) -> Result<()> {
        let guard = if self.link.kind() == TransportKind::Cma {
            host.guard().map_or(0, |guard| guard.nonce)
        } else {
            0
        };
        let ours =
            Probe { fence: host.fence().view().nonce(), cells: self.link.cells().view().nonce(), guard };
        if *probe == ours {
            Ok(())
        } else {
            Err(broken("the peer's probe copy brought other bytes than ours"))
        }
    }

    fn facts(&self, host: &Host) -> Facts {
        let (gates, grants) = host.fence().capacity();
        let gate = self.link.gate();
        let guard = host.guard().map_or(0, Guard::address);
        Facts { gates, grants, gate_slot: gate.slot, gate_generation: gate.generation, guard }
    }

    fn mac(&self, what: &str, nonces: &Nonces, body: impl FnOnce(&mut Vec<u8>)) -> Blake2sMac256 {
        let mut bytes = Vec::with_capacity(128);
        body(&mut bytes);
        let mut mac = hash(&self.key);
        mac.update(what.as_bytes());
        mac.update(&self.tag);
        mac.update(&nonces.active);
        mac.update(&nonces.passive);
        mac.update(&bytes);
        mac
    }

    /// The active side's part, on the caller's thread, until the deadline at most.
    pub(crate) fn go(self, host: &Arc<Host>, peer: &[u8; 16]) -> Result<()> {
        let socket = self.connect(peer)?;
        let process = Arc::new(Process::of(socket.as_fd())?);
        let result = self.greet(host, &socket, &process);
        if let Err(error) = &result {
            let refused = Message::Refused { reason: error.message().into() };
            let _ = socket::send(socket.as_fd(), &refused.encode(), &[]);
        }
        let met = result?;
        let wire = host.new_wire();
        if !self.link.attach(met.far(Arc::clone(&wire), Arc::clone(&process))) {
            return Err(Error::new(ErrorKind::Closed, "link", "the link was closed while it was made"));
        }
        host.adopt(self.link, wire, socket, process);
        Ok(())
    }

    fn greet(&self, host: &Host, socket: &OwnedFd, process: &Arc<Process>) -> Result<Met> {
        let mut active = [0; 32];
        crate::onesided::random(&mut active)?;
        self.send(socket, &self.hello(active), &[])?;
        let (Message::Challenge { nonce, facts, mac }, fds) = self.receive(socket)? else {
            return Err(broken("the peer answered out of turn"));
        };
        let nonces = Nonces { active, passive: nonce };
        self.check_challenge(&nonces, &facts, &mac)?;
        let met = self.meet(process, &facts, fds)?;
        self.send(socket, &self.proof(host, &nonces, met.probe), &self.fds(host)?)?;
        let (Message::Ready { probe, mac }, _) = self.receive(socket)? else {
            return Err(broken("the peer answered out of turn"));
        };
        self.check_ready(&nonces, &probe, &mac)?;
        self.check_probe(host, &probe)?;
        Ok(met)
    }

    fn connect(&self, peer: &[u8; 16]) -> Result<OwnedFd> {
        loop {
            match socket::connect(peer) {
                Ok(socket) => return Ok(socket),
                Err(Errno::AGAIN) if Instant::now() < self.deadline => {
                    std::thread::sleep(Duration::from_millis(5))
                }
                Err(Errno::AGAIN) => return Err(self.late()),
                Err(errno @ (Errno::CONNREFUSED | Errno::NOENT)) => {
                    let why =
                        "the peer has no socket here: it is on another host, or in another network namespace";
                    return Err(
                        Error::new(ErrorKind::Unsupported, "link", why).with_native(errno.raw_os_error())
                    );
                }
                Err(errno) => return Err(Error::os("link", "connecting to the peer's socket", errno.into())),
            }
        }
    }

    fn send(&self, socket: &OwnedFd, message: &Message, fds: &[BorrowedFd<'_>]) -> Result<()> {
        loop {
            match socket::send(socket.as_fd(), &message.encode(), fds) {
                Ok(()) => return Ok(()),
                Err(Errno::AGAIN | Errno::INTR) => self.wait(socket, PollFlags::OUT)?,
                Err(errno) => return Err(Error::os("link", "greeting the peer", errno.into())),
            }
        }
    }

    fn receive(&self, socket: &OwnedFd) -> Result<(Message, Vec<OwnedFd>)> {
        loop {
            match socket::receive(socket.as_fd()) {
                Received::Message { bytes, fds } => match Message::decode(&bytes) {
                    Some(Message::Refused { reason }) => {
                        let why = format!("the peer refused the link: {reason}");
                        return Err(Error::new(ErrorKind::Unsupported, "link", why));
                    }
                    Some(message) => return Ok((message, fds)),
                    None => return Err(broken("the peer's greeting is garbage")),
                },
                Received::Nothing => self.wait(socket, PollFlags::IN)?,
                Received::End => return Err(Error::new(ErrorKind::LinkLost, "link", "the peer hung up")),
                Received::Oversized => return Err(broken("the peer's greeting is too long")),
                Received::Failed(errno) => return Err(Error::os("link", "greeting the peer", errno.into())),
            }
        }
    }

    fn wait(&self, socket: &OwnedFd, flags: PollFlags) -> Result<()> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(self.late());
        }
        let left = left.min(Duration::from_secs(24 * 60 * 60));
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match rustix::event::poll(&mut [PollFd::new(socket, flags)], Some(&left)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(Error::os("link", "waiting for the peer", errno.into())),
        }
    }

    fn late(&self) -> Error {
        Error::new(ErrorKind::TimedOut, "link", "the peer did not answer on its socket before the deadline")
    }
}

pub(super) fn kind_code(kind: TransportKind) -> u8 {
    match kind {
        TransportKind::Shm => 1,
        TransportKind::Cma => 2,
        _ => 0,
    }
}

fn hash(key: &LinkKey) -> Blake2sMac256 {
    <Blake2sMac256 as KeyInit>::new_from_slice(&key.0).expect("32 bytes are a key")
}

fn verify(code: Blake2sMac256, mac: &[u8; 32]) -> Result<()> {
    code.verify_slice(mac)
        .map_err(|_| Error::new(ErrorKind::Denied, "link", "the peer does not know the link's key"))
}

pub(super) fn broken(why: &str) -> Error {
    Error::new(ErrorKind::Protocol, "link", why)
}
