//! The peer's side: an engine that obeys lines on stdin.
//!
//! Every command is answered by one line: `ok ...`, or `error KIND text`. The end of a transfer, asked for by `end`, is
//! told when it comes, after `ended`, and other commands are obeyed meanwhile.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Write;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ropeway::{
    BlockId, Cache, Descriptor, Engine, Error, ErrorKind, Grant, Host, Lease, LeaseOptions, Limits, Op, Peer,
    Region, Rights, Route, RouteOptions, Strided, Submit, Token, Transfer, TransportKind,
};
use ropeway_transport::onesided::pause::{self, Point};

use super::{ASKED, ENDED, MARK};
use crate::watchdog::WAIT;

/// What the first and the last block of a region hold: nobody leases them, so nobody may touch them.
pub const EDGE: u8 = 0xaa;
/// A peer that is forgotten ends by itself.
const LIFE: Duration = Duration::from_secs(140);

/// What a peer is made of. As a string: `key=value` words.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The transports to offer; all of them when there is none.
    pub kinds: Vec<TransportKind>,
    /// Bytes of its region.
    pub bytes: u64,
    /// Bytes of a block.
    pub block: u64,
    /// Whether the region lies in a memfd.
    pub shared: bool,
    /// Time to live of its leases, and what follows from it.
    pub ttl: Duration,
    /// Where its control port listens.
    pub listen: std::net::SocketAddr,
    /// Whether anyone is let in.
    pub insecure: bool,
    /// The user to become before the engine is opened.
    pub uid: Option<u32>,
    /// Whether other processes of the same user may look into it.
    pub dumpable: bool,
    /// The network namespace that it enters before the engine is opened: a file of `/run/netns`.
    pub network: Option<String>,
    /// The cgroup that it enters before the engine is opened: a folder.
    pub cgroup: Option<String>,
}

impl Setup {
    /// A peer of one transport, with memory that suits it.
    pub fn of(kind: TransportKind) -> Self {
        Self { kinds: vec![kind], shared: kind == TransportKind::Shm, ..Self::default() }
    }

    /// The limits that go with `ttl`.
    pub fn limits(&self) -> Limits {
        Limits::default().with_lease_ttl(self.ttl).with_heartbeat(self.ttl / 6)
    }

    /// Opens the engine and its region, whose blocks are published as `kv`.
    ///
    /// # Errors
    /// What the engine said.
    pub fn open(&self) -> ropeway::Result<(Engine, Region, Cache)> {
        let mut builder = Engine::builder().limits(self.limits()).listen(self.listen);
        if !self.kinds.is_empty() {
            builder = builder.transports(&self.kinds);
        }
        if self.insecure {
            builder = builder.insecure();
        }
        let engine = builder.open()?;
        let host = if self.shared { Host::shared(self.bytes) } else { Host::private(self.bytes) };
        let region = engine.alloc(host)?;
        let strided = Strided::dense(0, self.block, self.blocks());
        let cache = engine.cache("kv").group("g0", 1).part("p", &region, strided).publish()?;
        Ok((engine, region, cache))
    }

    /// The blocks that are leased: all but the first and the last.
    pub fn leased(&self) -> Vec<BlockId> {
        (1..self.blocks() - 1).map(BlockId).collect()
    }

    /// Where the leased blocks lie.
    pub fn inner(&self) -> Range<u64> {
        self.block..self.bytes - self.block
    }

    fn blocks(&self) -> u32 {
        (self.bytes / self.block) as u32
    }

    /// Fills the leased blocks, and the edges with [`EDGE`].
    ///
    /// # Errors
    /// What the engine said.
    pub fn fill(&self, region: &Region, byte: u8) -> ropeway::Result<()> {
        let inner = self.inner();
        region.fill(0, inner.start, EDGE)?;
        region.fill(inner.end, self.bytes - inner.end, EDGE)?;
        region.fill(inner.start, inner.end - inner.start, byte)
    }

    /// What the leased blocks hold, and what the edges do.
    ///
    /// # Panics
    /// When the region is shorter than the setup says.
    pub fn holds(&self, region: &Region) -> (Vec<u8>, Vec<u8>) {
        let inner = self.inner();
        let mut edges = values(region, 0..inner.start);
        edges.extend(values(region, inner.end..self.bytes));
        (values(region, inner).into_iter().collect(), edges.into_iter().collect())
    }
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            kinds: Vec::new(),
            bytes: 64 << 20,
            block: 256 << 10,
            shared: false,
            ttl: Duration::from_secs(30),
            listen: "127.0.0.1:0".parse().expect("an address"),
            insecure: false,
            uid: None,
            dumpable: true,
            network: None,
            cgroup: None,
        }
    }
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<_> = self.kinds.iter().map(|kind| kind.name()).collect();
        write!(
            f,
            "kinds={} bytes={} block={} shared={} ttl={} listen={} insecure={} uid={} dumpable={} network={} cgroup={}",
            kinds.join(","),
            self.bytes,
            self.block,
            self.shared,
            self.ttl.as_millis(),
            self.listen,
            self.insecure,
            self.uid.map_or_else(String::new, |uid| uid.to_string()),
            self.dumpable,
            self.network.as_deref().unwrap_or_default(),
            self.cgroup.as_deref().unwrap_or_default(),
        )
    }
}

impl FromStr for Setup {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        fn parse<T: FromStr>(value: &str) -> Result<T, String> {
            value.parse().map_err(|_| format!("{value}: not understood"))
        }
        let mut setup = Self::default();
        for word in text.split_whitespace() {
            let (key, value) = word.split_once('=').ok_or("a word without =")?;
            match key {
                "kinds" => setup.kinds = value.split(',').filter_map(kind).collect(),
                "bytes" => setup.bytes = parse(value)?,
                "block" => setup.block = parse(value)?,
                "shared" => setup.shared = parse(value)?,
                "ttl" => setup.ttl = Duration::from_millis(parse(value)?),
                "listen" => setup.listen = parse(value)?,
                "insecure" => setup.insecure = parse(value)?,
                "uid" => setup.uid = if value.is_empty() { None } else { Some(parse(value)?) },
                "dumpable" => setup.dumpable = parse(value)?,
                "network" => setup.network = Some(value.to_owned()).filter(|name| !name.is_empty()),
                "cgroup" => setup.cgroup = Some(value.to_owned()).filter(|path| !path.is_empty()),
                other => return Err(format!("{other}: no such key")),
            }
        }
        Ok(setup)
    }
}

/// The different bytes in a part of a region.
///
/// # Panics
/// When the range passes the region's end.
pub fn values(region: &Region, range: Range<u64>) -> BTreeSet<u8> {
    let mut values = BTreeSet::new();
    let mut buffer = vec![0u8; 1 << 20];
    let mut at = range.start;
    while at < range.end {
        let len = (range.end - at).min(buffer.len() as u64) as usize;
        region.read(at, &mut buffer[..len]).expect("inside the region");
        for piece in buffer[..len].chunks(4096) {
            values.insert(piece[0]);
            // Comparing a piece with itself shifted by one is a memcmp, quick in unoptimised builds, too.
            if piece[1..] != piece[..piece.len() - 1] {
                values.extend(piece);
            }
        }
        at += len as u64;
    }
    values
}

/// Is a peer until its stdin ends, when the environment asks for it; does nothing otherwise.
///
/// # Panics
/// When the setup cannot be read or the process cannot become what it says.
pub fn be_peer_if_asked() {
    let Ok(setup) = std::env::var(ASKED) else { return };
    let setup: Setup = setup.parse().expect("the parent's setup");
    die_with_parent();
    std::thread::spawn(|| {
        std::thread::sleep(LIFE);
        std::process::exit(3);
    });
    become_what(&setup);
    match PeerProcess::open(setup) {
        Ok(mut peer) => {
            answer(&format!("ok {}", peer.engine.descriptor()));
            for line in std::io::stdin().lines() {
                let Ok(line) = line else { return };
                let words: Vec<&str> = line.split_whitespace().collect();
                let answered = peer.obey(&words).unwrap_or_else(|error| error_line(&error));
                answer(&answered);
            }
            // The parent said all it had to say.
            std::process::exit(0);
        }
        Err(error) => answer(&error_line(&error)),
    }
}

fn die_with_parent() {
    // SAFETY: asks the kernel to end this process with the thread that made it.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

fn become_what(setup: &Setup) {
    if let Some(group) = &setup.cgroup {
        let procs = format!("{group}/cgroup.procs");
        std::fs::write(&procs, std::process::id().to_string()).expect("the cgroup takes this process");
    }
    if let Some(network) = &setup.network {
        let network = std::fs::File::open(format!("/run/netns/{network}")).expect("a network namespace");
        // SAFETY: moves this thread, from which all others of the engine are made later.
        let moved = unsafe { libc::setns(network.as_raw_fd(), libc::CLONE_NEWNET) };
        assert_eq!(moved, 0, "setns: {}", std::io::Error::last_os_error());
    }
    if let Some(uid) = setup.uid {
        // SAFETY: gives up the rights of this process; glibc does it for all threads.
        let became = unsafe { libc::setresuid(uid, uid, uid) };
        assert_eq!(became, 0, "setresuid: {}", std::io::Error::last_os_error());
        // A change of the user clears it.
        die_with_parent();
    }
    let dumpable = libc::c_ulong::from(setup.dumpable);
    // SAFETY: sets a flag of this process.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, dumpable) };
}

fn answer(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{MARK}{line}");
    let _ = out.flush();
}

fn error_line(error: &Error) -> String {
    format!("error {} {:?} {:?} {}", error.kind().label(), error.local(), error.remote(), error)
        .replace('\n', " ")
}

fn kind(name: &str) -> Option<TransportKind> {
    let known = [TransportKind::Loopback, TransportKind::Shm, TransportKind::Cma, TransportKind::Tcp];
    known.into_iter().find(|kind| kind.name() == name)
}

struct PeerProcess {
    setup: Setup,
    engine: Engine,
    region: Region,
    cache: Cache,
    leases: Vec<Lease>,
    peer: Option<Peer>,
    grant: Option<Grant>,
    route: Option<Route>,
    transfers: Vec<Arc<Transfer>>,
}

impl PeerProcess {
    fn open(setup: Setup) -> ropeway::Result<Self> {
        let (engine, region, cache) = setup.open()?;
        Ok(Self {
            setup,
            engine,
            region,
            cache,
            leases: Vec::new(),
            peer: None,
            grant: None,
            route: None,
            transfers: Vec::new(),
        })
    }

    fn obey(&mut self, words: &[&str]) -> ropeway::Result<String> {
        match words {
            ["fill", byte] => self.setup.fill(&self.region, number(byte)? as u8).map(|()| "ok".into()),
            ["holds"] => {
                let (inner, edges) = self.setup.holds(&self.region);
                Ok(format!("ok {inner:?} {edges:?}").replace(", ", ","))
            }
            ["hold", point] => self.hold(point),
            ["held"] => Ok(format!("ok {}", pause::held())),
            ["release"] => {
                pause::release();
                Ok("ok".into())
            }
            ["fork-and-wait"] => Ok(fork_and_wait()),
            ["exit"] => std::process::exit(0),
            ["lease" | "lend" | "free" | "peers", ..] => self.own(words),
            _ => self.import(words),
        }
    }

    fn own(&mut self, words: &[&str]) -> ropeway::Result<String> {
        match words {
            ["lease", op] => {
                let ids = self.setup.leased();
                let rights = if operation(op)? == Op::Read { Rights::Read } else { Rights::Write };
                self.leases.push(self.cache.lease(&[&ids], rights, LeaseOptions::default())?);
                Ok(format!("ok {}", self.leases[self.leases.len() - 1].token()))
            }
            ["lend", name] => {
                let name = name.parse().map_err(|_| misuse("this is no lease's name"))?;
                let options = LeaseOptions::default().name(name);
                self.leases.push(self.cache.lease(&[&self.setup.leased()], Rights::Read, options)?);
                Ok("ok".into())
            }
            ["free", lease, millis] => {
                let lease =
                    self.leases.get(number(lease)? as usize).ok_or_else(|| misuse("no such lease"))?;
                let freed = lease.wait_free(Duration::from_millis(number(millis)?));
                let freed =
                    freed.map_or("held".into(), |freed| format!("{:?} {}", freed.outcome, freed.quarantined));
                Ok(format!("ok {freed}"))
            }
            ["peers"] => Ok(format!("ok {}", self.engine.peers().len())),
            _ => Err(misuse("no such command")),
        }
    }

    fn import(&mut self, words: &[&str]) -> ropeway::Result<String> {
        match words {
            ["connect", descriptor, millis] => {
                let descriptor: Descriptor =
                    descriptor.parse().map_err(|error| misuse(&format!("{error}")))?;
                let timeout = Duration::from_millis(number(millis)?);
                let peer = self.peer.insert(self.engine.connect(&descriptor, timeout)?.wait()?);
                let kinds: Vec<_> = peer.transports().iter().map(|kind| kind.name()).collect();
                Ok(format!("ok {} {:?}", kinds.join(","), peer.refused_transports()))
            }
            ["claim", token] => {
                let token: Token = token.parse().map_err(|error| misuse(&format!("{error}")))?;
                self.grant = Some(self.connected()?.claim(&token, WAIT)?.wait()?);
                Ok("ok".into())
            }
            ["route", wanted @ ..] => {
                let wanted = wanted.first().and_then(|name| kind(name));
                let options =
                    wanted.map_or_else(RouteOptions::default, |kind| RouteOptions::default().transport(kind));
                let route = self.connected()?.route_with(&self.cache, "kv", options, WAIT)?.wait()?;
                let line = format!("ok {}", route.transport());
                self.route = Some(route);
                Ok(line)
            }
            ["start", op] => {
                let grant = self.grant.as_ref().ok_or_else(|| misuse("nothing was claimed"))?;
                let route = self.route.as_ref().ok_or_else(|| misuse("there is no route"))?;
                let ids = self.setup.leased();
                let plan = route.plan(operation(op)?, grant, None, &[&ids], &[&ids])?;
                self.transfers.push(Arc::new(plan.submit(Submit::default())?));
                Ok(format!("ok {}", self.transfers.len() - 1))
            }
            ["end", transfer] => {
                let index = number(transfer)? as usize;
                let transfer =
                    Arc::clone(self.transfers.get(index).ok_or_else(|| misuse("no such transfer"))?);
                std::thread::spawn(move || {
                    let line = match transfer.wait(WAIT) {
                        Some(Ok(report)) => format!("ok {}", report.bytes),
                        Some(Err(error)) => error_line(&error),
                        None => "hangs".into(),
                    };
                    // First: whoever hears of the end may drop the rest, and expects the grant to go with it.
                    drop(transfer);
                    answer(&format!("{ENDED}{line}"));
                });
                Ok("ok".into())
            }
            ["drop"] => {
                self.transfers.clear();
                (self.grant, self.route, self.peer) = (None, None, None);
                Ok("ok".into())
            }
            _ => Err(misuse("no such command")),
        }
    }

    /// Threads that move chunks under the grant stay at the point from here on.
    fn hold(&self, point: &str) -> ropeway::Result<String> {
        let grant = self.grant.as_ref().ok_or_else(|| misuse("nothing was claimed"))?;
        let point = if point == "entered" { Point::Entered } else { Point::Copied };
        pause::hold(point, grant.id());
        Ok("ok".into())
    }

    fn connected(&self) -> ropeway::Result<&Peer> {
        self.peer.as_ref().ok_or_else(|| misuse("not connected"))
    }
}

/// A forked child that holds every descriptor of this process open, and does nothing. Ends with this process's group.
fn fork_and_wait() -> String {
    // SAFETY: the child only sleeps and exits, both of which are async-signal-safe.
    match unsafe { libc::fork() } {
        0 => {
            // SAFETY: a plain system call.
            unsafe { libc::sleep(100) };
            // SAFETY: ends the child without running anything of its parent's.
            unsafe { libc::_exit(0) }
        }
        child => format!("ok {child}"),
    }
}

fn operation(name: &str) -> ropeway::Result<Op> {
    match name {
        "read" => Ok(Op::Read),
        "write" => Ok(Op::Write),
        _ => Err(misuse("read or write")),
    }
}

fn number(word: &str) -> ropeway::Result<u64> {
    word.parse().map_err(|_| misuse("a number"))
}

fn misuse(text: &str) -> Error {
    Error::new(ErrorKind::ApiMisuse, "peer process", text)
}
