//! The owner in another process, as this one sees it.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ropeway::{Limits, Outcome, Result};

use super::ask::{Answer, Ask, receive, send};
use super::serve::{ASKED, TEST};
use crate::conformance::{Api, Ground, npu};
use crate::watchdog::eventually;

/// A process that is the owner; killed when dropped.
pub(super) struct Far {
    process: Child,
    address: SocketAddr,
    next: AtomicU64,
}

/// A thing in that process.
pub(super) struct Object {
    far: Arc<Far>,
    id: u64,
}

/// Numbers of limits that facts set.
type Get = fn(&Limits) -> u64;
const LIMITS: [(&str, Get); 9] = [
    ("transfers", |limits| limits.transfers().into()),
    ("transfers_per_peer", |limits| limits.transfers_per_peer().into()),
    ("regions", |limits| limits.regions().into()),
    ("caches", |limits| limits.caches().into()),
    ("leases", |limits| limits.leases().into()),
    ("grants_per_peer", |limits| limits.grants_per_peer().into()),
    ("peers", |limits| limits.peers().into()),
    ("blocks_per_lease", |limits| limits.blocks_per_lease().into()),
    ("completions", |limits| limits.completions().into()),
];

impl Far {
    pub(super) fn start(ground: &Ground, bytes: u64, limits: &Limits) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ropeway-owner-{}-{count}", std::process::id());
        let program = std::env::current_exe().expect("the test's own binary");
        let mut command = Command::new(program);
        command.args([TEST, "--exact", "--nocapture", "--test-threads=1"]).env(ASKED, &name);
        if ground.npu.is_some() {
            npu::prepare(&mut command, ground.across);
        }
        let process =
            command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("a process for the owner");
        let address = SocketAddr::from_abstract_name(&name).expect("a short name");
        let far = Self { process, address, next: AtomicU64::new(1) };
        eventually("the owner's process listens", || UnixStream::connect_addr(&far.address).is_ok());
        let limits = LIMITS.iter().map(|(name, get)| ((*name).to_owned(), get(limits))).collect();
        let open = Ask::Open {
            kind: ground.kind.name().to_owned(),
            streams: ground.streams,
            c_api: ground.npu == Some(Api::C),
            bytes,
            limits,
        };
        far.call(&open, &[]).0.ok().expect("the owner opens");
        far
    }

    /// A connection each, so that a wish that waits holds nobody up.
    fn call(&self, ask: &Ask, bytes: &[u8]) -> (Answer, Vec<u8>) {
        let mut stream = UnixStream::connect_addr(&self.address).expect("the owner's process lives");
        send(&mut stream, ask, bytes).expect("the owner's process listens");
        receive(&mut stream).unwrap_or_else(|error| panic!("{ask:?}: the owner's process failed: {error}"))
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Object {
    /// The owner as a whole; nothing is dropped with it.
    pub(super) fn root(far: &Arc<Far>) -> Self {
        Self { far: Arc::clone(far), id: 0 }
    }

    /// A number for a thing to be made.
    pub(super) fn fresh(&self) -> Self {
        Self { far: Arc::clone(&self.far), id: self.far.next.fetch_add(1, Ordering::Relaxed) }
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn ask(&self, ask: Ask) -> Result<Answer> {
        self.far.call(&ask, &[]).0.ok()
    }

    pub(super) fn done(&self, ask: Ask) -> Result<()> {
        match self.ask(ask)? {
            Answer::Done => Ok(()),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn truth(&self, ask: Ask) -> bool {
        match self.ask(ask) {
            Ok(Answer::Truth(truth)) => truth,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn number(&self, ask: Ask) -> u64 {
        match self.ask(ask) {
            Ok(Answer::Number(number)) => number,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn text(&self, ask: Ask) -> String {
        match self.ask(ask) {
            Ok(Answer::Text(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn texts(&self, ask: Ask) -> Vec<String> {
        match self.ask(ask) {
            Ok(Answer::Texts(texts)) => texts,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn freed(&self, ask: Ask) -> Option<Outcome> {
        use Outcome::{Done, Expired, Forsaken, NeverClaimed, PeerLost, Revoked};
        let known = [Done, Expired, Forsaken, NeverClaimed, PeerLost, Revoked];
        match self.ask(ask) {
            Ok(Answer::Freed(outcome)) => outcome.map(|name| {
                let named = known.into_iter().find(|known| format!("{known:?}") == name);
                named.unwrap_or_else(|| panic!("{name} is no outcome"))
            }),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn read(&self, at: u64, into: &mut [u8]) -> Result<()> {
        let (answer, bytes) = self.far.call(&Ask::Read { at, len: into.len() as u64 }, &[]);
        answer.ok()?;
        into.copy_from_slice(&bytes);
        Ok(())
    }

    pub(super) fn write(&self, at: u64, from: &[u8]) -> Result<()> {
        self.far.call(&Ask::Write { at }, from).0.ok().map(drop)
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        if self.id != 0 && !std::thread::panicking() {
            let _ = self.far.call(&Ask::Drop { id: self.id }, &[]);
        }
    }
}
