//! Two ends of a link in this process, and a session between them that a test can cut.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ropeway_core::{
    Error, ErrorKind, GrantId, Limits, Op, PeerId, RegionId, Result, Runs, Status, StatusKind, TransferId,
};
use ropeway_transport::{
    Batch, Declined, Inbox, Janitor, Link, LinkConfig, LinkKey, LinkSink, Memory, Rejected, Role,
    ServeRequest, Served, State, Transport, TransportKind, Watcher,
};

pub(super) use ropeway_testkit::links::{List, WATCHDOG, eventually, grant, region, soon};

use super::fake::{FakeNative, Hardware};
use crate::link::{DeviceTransport, MoverLimits, Timing};

/// Short times, so that tests of holding are quick; still long beside what a test does in between.
pub(super) const TIMING: Timing = Timing {
    window: Duration::from_millis(300),
    disconnect: Duration::from_millis(100),
    connect: Duration::from_secs(20),
    drain: Duration::from_millis(100),
};

pub(super) fn janitor() -> Janitor {
    static JANITOR: OnceLock<Janitor> = OnceLock::new();
    JANITOR.get_or_init(|| Janitor::start().unwrap()).clone()
}

pub(super) fn memory(len: u64, byte: u8) -> Arc<Memory> {
    let memory = Memory::anonymous(len, &janitor()).unwrap();
    memory.fill(0, len, byte).unwrap();
    memory
}

pub(super) fn bytes_of(memory: &Memory) -> Vec<u8> {
    let mut bytes = vec![0; memory.len() as usize];
    memory.read(0, &mut bytes).unwrap();
    bytes
}

pub(super) fn is_all(memory: &Memory, byte: u8) -> bool {
    bytes_of(memory).iter().all(|found| *found == byte)
}

/// Whether the first `count` bytes are `first` and the others `rest`.
pub(super) fn is_first(memory: &Memory, count: usize, first: u8, rest: u8) -> bool {
    let bytes = bytes_of(memory);
    bytes[..count].iter().all(|byte| *byte == first) && bytes[count..].iter().all(|byte| *byte == rest)
}

/// What a link told its engine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Told {
    Attached,
    Withdrawn(RegionId),
    Fenced(GrantId),
    Lost(ErrorKind, Option<i32>),
    Closed { peer_gone: bool },
}

pub(super) struct Sink {
    wire: Mutex<Option<mpsc::Sender<Bytes>>>,
    regions: Mutex<HashMap<RegionId, Arc<Memory>>>,
    leases: Mutex<HashMap<GrantId, (Op, bool)>>,
    /// Run inside of the next `export`.
    exporting: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    told: Mutex<Vec<Told>>,
    news: Condvar,
    /// Messages are kept back while this is set.
    pub(super) muted: Arc<AtomicBool>,
}

impl Sink {
    fn new(wire: mpsc::Sender<Bytes>, muted: Arc<AtomicBool>) -> Arc<Self> {
        Arc::new(Self {
            wire: Mutex::new(Some(wire)),
            regions: Mutex::default(),
            leases: Mutex::default(),
            exporting: Mutex::default(),
            told: Mutex::default(),
            news: Condvar::new(),
            muted,
        })
    }

    pub(super) fn offer(&self, region: RegionId, memory: &Arc<Memory>) {
        self.regions.lock().unwrap().insert(region, Arc::clone(memory));
    }

    pub(super) fn lease(&self, grant: GrantId, op: Op) {
        self.leases.lock().unwrap().insert(grant, (op, true));
    }

    /// Runs `call` inside of the next `export`.
    pub(super) fn while_exporting(&self, call: impl FnOnce() + Send + 'static) {
        *self.exporting.lock().unwrap() = Some(Box::new(call));
    }

    /// The holder has given its word: nothing is held under it any more.
    pub(super) fn release(&self, grant: GrantId) {
        self.leases.lock().unwrap().remove(&grant);
    }

    pub(super) fn revoke(&self, grant: GrantId) {
        self.leases.lock().unwrap().get_mut(&grant).unwrap().1 = false;
    }

    /// The session is over: nothing that is said gets there.
    pub(super) fn cut(&self) {
        self.wire.lock().unwrap().take();
    }

    pub(super) fn told(&self) -> Vec<Told> {
        self.told.lock().unwrap().clone()
    }

    pub(super) fn has(&self, what: &Told) -> bool {
        self.told().contains(what)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.told().iter().any(|told| matches!(told, Told::Closed { .. }))
    }

    pub(super) fn await_told(&self, what: &Told) {
        self.await_any(&format!("{what:?}"), |told| told == what);
    }

    pub(super) fn await_closed(&self) {
        self.await_any("closed", |told| matches!(told, Told::Closed { .. }));
    }

    pub(super) fn await_any(&self, name: &str, what: impl Fn(&Told) -> bool) {
        let until = soon();
        let mut told = self.told.lock().unwrap();
        while !told.iter().any(&what) {
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "watchdog: {name} was not told; only {told:?}");
            told = self.news.wait_timeout(told, left).unwrap().0;
        }
    }

    fn tell(&self, what: Told) {
        self.told.lock().unwrap().push(what);
        self.news.notify_all();
    }
}

impl LinkSink for Sink {
    fn attached(&self) {
        self.tell(Told::Attached);
    }

    fn say(&self, message: Bytes) -> Result<()> {
        let gone = || Error::new(ErrorKind::LinkLost, "say", "the session is over");
        self.wire.lock().unwrap().as_ref().ok_or_else(gone)?.send(message).map_err(|_| gone())
    }

    fn is_open(&self, grant: GrantId, op: Op) -> bool {
        self.leases.lock().unwrap().get(&grant) == Some(&(op, true))
    }

    fn may_write(&self, grant: GrantId) -> bool {
        self.leases.lock().unwrap().get(&grant).is_none_or(|(op, _)| *op == Op::Write)
    }

    fn peer_may_write(&self) -> bool {
        self.leases.lock().unwrap().values().any(|(op, _)| *op == Op::Write)
    }

    fn export(&self, region: RegionId) -> Result<Arc<Memory>> {
        let call = self.exporting.lock().unwrap().take();
        if let Some(call) = call {
            call();
        }
        let unknown = || Error::new(ErrorKind::Closed, "export", format!("region {region} is not known"));
        self.regions.lock().unwrap().get(&region).cloned().ok_or_else(unknown)
    }

    fn withdrawn(&self, region: RegionId) {
        self.tell(Told::Withdrawn(region));
    }

    fn serve(&self, _: &ServeRequest<'_>) -> Result<Served, Declined> {
        Err(StatusKind::Denied.into())
    }

    fn fenced(&self, grant: GrantId) {
        self.tell(Told::Fenced(grant));
    }

    fn lost(&self, error: Error) {
        self.tell(Told::Lost(error.kind(), error.native()));
    }

    fn closed(&self, peer_gone: bool) {
        self.tell(Told::Closed { peer_gone });
    }
}

/// One end of a link.
pub(super) struct End {
    pub(super) hardware: Hardware,
    pub(super) transport: Arc<DeviceTransport>,
    pub(super) sink: Arc<Sink>,
    pub(super) link: Arc<dyn Link>,
}

/// One engine's transport over a fake library.
pub(super) fn engine(hardware: &Hardware) -> Arc<DeviceTransport> {
    let native = FakeNative { hardware: hardware.clone(), kind: TransportKind::Ipc };
    let limits = Limits::default().with_transfers_per_peer(32).with_leases(64);
    DeviceTransport::open(Arc::new(native), &limits, TIMING, &janitor())
}

/// Carries what one side says to the other, on a thread of its own.
fn carry(heard: mpsc::Receiver<Bytes>, to: Inbox, muted: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        for message in heard {
            while muted.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
            to.deliver(message);
        }
        to.close();
    });
}

fn config(role: Role, sink: &Arc<Sink>, inbox: &Inbox, deadline: Instant) -> LinkConfig {
    LinkConfig {
        peer: PeerId { slot: 0, generation: 1 },
        key: LinkKey([7; 32]),
        role,
        offer: Bytes::from_static(b"fake"),
        sink: Arc::clone(sink) as Arc<dyn LinkSink>,
        inbox: inbox.clone(),
        deadline,
    }
}

/// Both sides of a link that may not come to be: the passive end, and what the active one got.
pub(super) fn try_pair(
    near: (&Hardware, &Arc<DeviceTransport>),
    far: (&Hardware, &Arc<DeviceTransport>),
    deadline: Instant,
) -> (Result<End>, End) {
    let (near_says, far_hears) = mpsc::channel();
    let (far_says, near_hears) = mpsc::channel();
    let (near_muted, far_muted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (near_inbox, far_inbox) = (Inbox::default(), Inbox::default());
    carry(far_hears, far_inbox.clone(), Arc::clone(&near_muted));
    carry(near_hears, near_inbox.clone(), Arc::clone(&far_muted));
    let (near_sink, far_sink) = (Sink::new(near_says, near_muted), Sink::new(far_says, far_muted));
    let passive = far.1.link(config(Role::Passive, &far_sink, &far_inbox, deadline)).unwrap();
    let active = near.1.link(config(Role::Active, &near_sink, &near_inbox, deadline));
    let end = |(hardware, transport): (&Hardware, &Arc<DeviceTransport>), sink, link| End {
        hardware: hardware.clone(),
        transport: Arc::clone(transport),
        sink,
        link,
    };
    (active.map(|link| end(near, near_sink, link)), end(far, far_sink, passive))
}

/// A passive end whose peer does not come.
pub(super) fn lone_passive(far: (&Hardware, &Arc<DeviceTransport>), deadline: Instant) -> End {
    let (says, _) = mpsc::channel();
    let sink = Sink::new(says, Arc::new(AtomicBool::new(false)));
    let link = far.1.link(config(Role::Passive, &sink, &Inbox::default(), deadline)).unwrap();
    End { hardware: far.0.clone(), transport: Arc::clone(far.1), sink, link }
}

pub(super) fn pair_of(
    near: (&Hardware, &Arc<DeviceTransport>),
    far: (&Hardware, &Arc<DeviceTransport>),
) -> (End, End) {
    let (active, passive) = try_pair(near, far, soon());
    let active = active.unwrap();
    passive.sink.await_told(&Told::Attached);
    (active, passive)
}

/// Both ends of a link, in this process.
pub(super) fn pair() -> (End, End) {
    pair_with(|_| {})
}

/// The same with other limits of the library.
pub(super) fn pair_with(limits: impl Fn(&mut MoverLimits)) -> (End, End) {
    let (near, far) = (Hardware::new(), Hardware::new());
    near.limit(&limits);
    far.limit(&limits);
    pair_of((&near, &engine(&near)), (&far, &engine(&far)))
}

impl End {
    /// A region of this end's memory, that the other end has imported.
    pub(super) fn lend(&self, slot: u32, len: u64, byte: u8, to: &End) -> Arc<Memory> {
        let memory = memory(len, byte);
        self.sink.offer(region(slot), &memory);
        assert_eq!(to.link.import(region(slot), soon()).unwrap(), len);
        memory
    }
}

/// Counts the ends; says whether pins were handed over for quarantine.
#[derive(Default)]
pub(super) struct Ends(pub(super) Mutex<Vec<(TransferId, Status, bool)>>, pub(super) bool);

impl Watcher for Ends {
    fn finished(&self, state: &State, status: Status, pins: Option<Arc<[Arc<Memory>]>>) {
        self.0.lock().unwrap().push((state.id(), status, pins.is_some()));
        assert!(!self.1, "the caller's code panics");
    }
}

/// A batch of tests.
pub(super) struct Order {
    pub(super) op: Op,
    pub(super) grant: GrantId,
    pub(super) runs: Arc<dyn Runs>,
    pub(super) local: Arc<Memory>,
    pub(super) remote: RegionId,
    pub(super) abandon_at: Instant,
    pub(super) panics: bool,
}

/// A batch on its way.
pub(super) struct Sent {
    pub(super) state: Arc<State>,
    pub(super) ends: Arc<Ends>,
}

impl Sent {
    pub(super) fn status(&self) -> Status {
        let status = self.state.park(Some(soon())).expect("watchdog: the batch did not end");
        assert_eq!(self.ends.0.lock().unwrap().len(), 1, "ended once");
        status
    }

    pub(super) fn is_done(&self) -> bool {
        self.state.is_done()
    }
}

impl Order {
    pub(super) fn new(
        op: Op,
        grant: GrantId,
        runs: Arc<dyn Runs>,
        local: &Arc<Memory>,
        remote: RegionId,
    ) -> Self {
        Self { op, grant, runs, local: Arc::clone(local), remote, abandon_at: soon(), panics: false }
    }

    /// Whoever is told of its end panics.
    pub(super) fn panicking(mut self) -> Self {
        self.panics = true;
        self
    }

    pub(super) fn until(mut self, abandon_at: Instant) -> Self {
        self.abandon_at = abandon_at;
        self
    }

    pub(super) fn try_post(self, link: &dyn Link) -> Result<Sent, ropeway_transport::Refusal> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let ends = Arc::new(Ends(Mutex::default(), self.panics));
        let local: Arc<[Arc<Memory>]> = Arc::new([self.local]);
        let id = TransferId(NEXT.fetch_add(1, Ordering::Relaxed));
        let (state, done) = State::new(id, 0, Arc::clone(&local), Arc::clone(&ends) as Arc<dyn Watcher>);
        let batch = Batch {
            id,
            op: self.op,
            grant: self.grant,
            runs: self.runs,
            local,
            remote: Arc::new([self.remote]),
            abandon_at: self.abandon_at,
            done,
        };
        match link.post(batch) {
            Ok(()) => Ok(Sent { state, ends }),
            Err(Rejected { batch, why }) => {
                batch.done.disarm();
                Err(why)
            }
        }
    }

    pub(super) fn post(self, link: &dyn Link) -> Sent {
        self.try_post(link).unwrap()
    }
}
