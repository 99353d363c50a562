//! The stand-in for the engine.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use ropeway_core::{
    Cursor, Error, GrantId, Limits, Op, PeerId, RegionId, Run, Runs, Status, StatusKind, TransferId,
};

use crate::tcp::{Gate, Tcp, TcpConfig};
use crate::{
    Batch, Declined, Janitor, Link, LinkConfig, LinkKey, LinkSink, Memory, Role, ServeRequest, Served, State,
    Transport, Watcher,
};

/// Long enough for any test on a loaded machine; a hang is what it finds.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(60);
pub(crate) const GRANT: GrantId = GrantId { slot: 1, generation: 1 };

/// A plain list of runs.
pub(crate) struct List(pub(crate) Vec<Run>);

impl Runs for List {
    fn total_bytes(&self) -> u64 {
        self.0.iter().map(|run| u64::from(run.len)).sum()
    }

    fn total_runs(&self) -> u64 {
        self.0.len() as u64
    }

    fn fill(&self, at: &mut Cursor, out: &mut [Run], mut bytes: u64) -> usize {
        let mut count = 0;
        while count < out.len() && bytes > 0 {
            let Some(run) = self.0.get(at.part as usize) else { break };
            let len = (u64::from(run.len) - at.byte).min(bytes);
            out[count] =
                Run { local: run.local + at.byte, remote: run.remote + at.byte, len: len as u32, ..*run };
            count += 1;
            bytes -= len;
            at.byte += len;
            if at.byte == u64::from(run.len) {
                *at = Cursor { part: at.part + 1, ..Cursor::default() };
            }
        }
        count
    }

    fn seek(&self, mut byte: u64) -> Cursor {
        let mut part = 0;
        while let Some(run) = self.0.get(part as usize).filter(|run| u64::from(run.len) <= byte) {
            byte -= u64::from(run.len);
            part += 1;
        }
        Cursor { part, byte, ..Cursor::default() }
    }

    fn encode(&self, out: &mut BytesMut) {
        for run in &self.0 {
            out.put_u64_le(run.remote);
            out.put_u32_le(run.len);
        }
    }
}

fn decode(plan: &[u8]) -> Option<List> {
    let entry = |entry: &[u8]| {
        let (local, len) = entry.split_first_chunk::<8>()?;
        let len = u32::from_le_bytes(len.try_into().ok()?);
        Some(Run { local: u64::from_le_bytes(*local), len, ..Run::default() })
    };
    plan.chunks(12).map(entry).collect::<Option<_>>().map(List)
}

/// The runs that hold bytes `start .. start + bytes`.
fn narrow(list: &List, start: u64, bytes: u64) -> List {
    let mut runs = vec![Run::default(); list.0.len()];
    let count = list.fill(&mut list.seek(start), &mut runs, bytes);
    runs.truncate(count);
    List(runs)
}

/// `count` blocks of `len` bytes, in another order on each side.
pub(crate) fn copies(count: u64, len: u32) -> Arc<List> {
    let stride = u64::from(len);
    let run = |at| Run { local: (count - 1 - at) * stride, remote: at * stride, len, ..Run::default() };
    Arc::new(List((0..count).map(run).collect()))
}

/// What a test does between a serving thread's publishing and its answer.
pub(crate) type Asked = Box<dyn FnMut(GrantId, Op) + Send>;

/// Leases: open until closed.
#[derive(Default)]
pub(crate) struct Leases {
    pub(crate) closed: AtomicBool,
    pub(crate) asked: Mutex<Option<Asked>>,
    pub(crate) asks: AtomicUsize,
}

impl Gate for Leases {
    fn is_open(&self, grant: GrantId, op: Op) -> bool {
        self.asks.fetch_add(1, Ordering::SeqCst);
        if let Some(asked) = &mut *self.asked.lock().unwrap() {
            asked(grant, op);
        }
        !self.closed.load(Ordering::SeqCst)
    }
}

/// What the link told the engine.
pub(crate) struct Sink {
    memory: Arc<Memory>,
    pub(crate) attached: AtomicBool,
    pub(crate) closed: AtomicUsize,
    pub(crate) lost: Mutex<Vec<Error>>,
    pub(crate) fenced: Mutex<Vec<GrantId>>,
    pub(crate) withdrawn: Mutex<Vec<RegionId>>,
    pub(crate) refuse: Mutex<Option<StatusKind>>,
    /// What the next refusal hands back.
    pub(crate) refused: Mutex<Option<Box<dyn Send>>>,
    /// Called while a request is checked.
    pub(crate) checked: Mutex<Option<Box<dyn FnMut() + Send>>>,
    /// Requests that hold our memory now.
    pub(crate) serving: Arc<AtomicUsize>,
    pub(crate) served: AtomicUsize,
    /// Ranges are not looked at.
    pub(crate) unchecked: AtomicBool,
}

struct Permit(Arc<AtomicUsize>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl LinkSink for Sink {
    fn attached(&self) {
        self.attached.store(true, Ordering::SeqCst);
    }

    fn say(&self, _: Bytes) -> Result<(), Error> {
        Ok(())
    }

    fn is_open(&self, _: GrantId, _: Op) -> bool {
        true
    }

    fn export(&self, _: RegionId) -> Result<Arc<Memory>, Error> {
        Ok(Arc::clone(&self.memory))
    }

    fn withdrawn(&self, region: RegionId) {
        self.withdrawn.lock().unwrap().push(region);
    }

    fn serve(&self, request: &ServeRequest<'_>) -> Result<Served, Declined> {
        if let Some(checked) = &mut *self.checked.lock().unwrap() {
            checked();
        }
        if let Some(refusal) = *self.refuse.lock().unwrap() {
            return Err(Declined { why: refusal, permit: self.refused.lock().unwrap().take() });
        }
        let runs = decode(request.plan).ok_or(StatusKind::Protocol)?;
        let unchecked = self.unchecked.load(Ordering::SeqCst);
        let fits = |run: &Run| unchecked || self.memory.range(run.local, run.len.into()).is_some();
        if request.grant != GRANT || !runs.0.iter().all(fits) {
            return Err(StatusKind::Denied.into());
        }
        self.served.fetch_add(1, Ordering::SeqCst);
        self.serving.fetch_add(1, Ordering::SeqCst);
        let permit = Box::new(Permit(Arc::clone(&self.serving)));
        let runs = narrow(&runs, request.start, request.bytes);
        Ok(Served { runs: Arc::new(runs), memory: [Arc::clone(&self.memory)].into(), permit })
    }

    fn fenced(&self, grant: GrantId) {
        self.fenced.lock().unwrap().push(grant);
    }

    fn lost(&self, error: Error) {
        self.lost.lock().unwrap().push(error);
    }

    fn closed(&self, _: bool) {
        self.closed.fetch_add(1, Ordering::SeqCst);
    }
}

/// Counts the ends of each batch: exactly one is right.
#[derive(Default)]
pub(crate) struct Ends(Mutex<HashMap<TransferId, Vec<Status>>>);

impl Watcher for Ends {
    fn finished(&self, state: &State, status: Status, _: Option<Arc<[Arc<Memory>]>>) {
        self.0.lock().unwrap().entry(state.id()).or_default().push(status);
    }
}

impl Ends {
    pub(crate) fn of(&self, id: TransferId) -> Vec<Status> {
        self.0.lock().unwrap().get(&id).cloned().unwrap_or_default()
    }
}

pub(crate) struct Engine {
    pub(crate) tcp: Tcp,
    pub(crate) leases: Arc<Leases>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) sink: Arc<Sink>,
    pub(crate) ends: Arc<Ends>,
    link: OnceLock<Arc<dyn Link>>,
    next: AtomicU64,
    pub(crate) janitor: Janitor,
}

impl Engine {
    pub(crate) fn new(bytes: usize, limits: Limits) -> Self {
        let janitor = Janitor::start().unwrap();
        let memory = Memory::owner(vec![0u8; bytes], &janitor).unwrap();
        Self::over(memory, janitor, limits)
    }

    /// An engine whose peers are served from this memory.
    pub(crate) fn over(memory: Arc<Memory>, janitor: Janitor, limits: Limits) -> Self {
        let leases = Arc::new(Leases::default());
        let gate: Arc<dyn Gate> = Arc::clone(&leases) as _;
        let listen = Some("127.0.0.1:0".parse().unwrap());
        let tcp = Tcp::new(TcpConfig { listen, advertise: None, limits, gate }).unwrap();
        let sink = Arc::new(Sink {
            memory: Arc::clone(&memory),
            attached: AtomicBool::new(false),
            closed: AtomicUsize::new(0),
            lost: Mutex::default(),
            fenced: Mutex::default(),
            withdrawn: Mutex::default(),
            refuse: Mutex::default(),
            refused: Mutex::default(),
            checked: Mutex::default(),
            serving: Arc::default(),
            served: AtomicUsize::new(0),
            unchecked: AtomicBool::new(false),
        });
        let ends = Arc::new(Ends::default());
        Self { tcp, leases, memory, sink, ends, link: OnceLock::new(), next: AtomicU64::new(1), janitor }
    }

    pub(crate) fn config(&self, key: LinkKey, role: Role, offer: Bytes) -> LinkConfig {
        let peer = PeerId { slot: 0, generation: 1 };
        let sink: Arc<dyn LinkSink> = Arc::clone(&self.sink) as _;
        LinkConfig {
            peer,
            key,
            role,
            offer,
            sink,
            inbox: crate::Inbox::default(),
            deadline: Instant::now() + WATCHDOG,
        }
    }

    pub(crate) fn linked(&self, key: LinkKey, role: Role, offer: Bytes) -> &Arc<dyn Link> {
        let link = self.tcp.link(self.config(key, role, offer)).unwrap();
        self.link.get_or_init(|| link)
    }

    pub(crate) fn link(&self) -> &Arc<dyn Link> {
        self.link.get().unwrap()
    }

    /// A batch with its state, not posted.
    pub(crate) fn batch(&self, op: Op, runs: Arc<dyn Runs>, abandon_in: Duration) -> (Batch, Arc<State>) {
        self.batch_of(&self.memory, op, runs, abandon_in)
    }

    /// The same over other memory than the engine's own.
    pub(crate) fn batch_of(
        &self,
        memory: &Arc<Memory>,
        op: Op,
        runs: Arc<dyn Runs>,
        abandon_in: Duration,
    ) -> (Batch, Arc<State>) {
        let id = TransferId(self.next.fetch_add(1, Ordering::Relaxed));
        let local: Arc<[Arc<Memory>]> = [Arc::clone(memory)].into();
        let watcher: Arc<dyn Watcher> = Arc::clone(&self.ends) as _;
        let (state, done) = State::new(id, 0, Arc::clone(&local), watcher);
        let remote = [RegionId { slot: 0, generation: 1 }].into();
        let abandon_at = Instant::now() + abandon_in;
        (Batch { id, op, grant: GRANT, runs, local, remote, abandon_at, done }, state)
    }

    pub(crate) fn post(&self, op: Op, runs: Arc<dyn Runs>) -> Arc<State> {
        let (batch, state) = self.batch(op, runs, WATCHDOG);
        match self.link().post(batch) {
            Ok(()) => state,
            Err(rejected) => panic!("rejected: {:?}", rejected.why),
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.memory.len() as usize];
        self.memory.read(0, &mut bytes).unwrap();
        bytes
    }

    /// Bytes that tell their place.
    pub(crate) fn pattern(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.memory.len() as usize];
        for (at, word) in bytes.chunks_exact_mut(8).enumerate() {
            word.copy_from_slice(&(at as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
        }
        self.memory.write(0, &bytes).unwrap();
        bytes
    }
}

/// Two engines with a link, `a` the active one.
pub(crate) fn pair(bytes: usize) -> (Engine, Engine) {
    pair_with(bytes, Limits::default())
}

pub(crate) fn pair_with(bytes: usize, limits: Limits) -> (Engine, Engine) {
    link_up(Engine::new(bytes, limits.clone()), Engine::new(bytes, limits))
}

pub(crate) fn link_up(a: Engine, b: Engine) -> (Engine, Engine) {
    let key = LinkKey([9; 32]);
    b.linked(key, Role::Passive, a.tcp.offer());
    a.linked(key, Role::Active, b.tcp.offer());
    eventually(|| b.sink.attached.load(Ordering::SeqCst));
    (a, b)
}

/// Waits as a user does: driving.
pub(crate) fn wait(engine: &Engine, state: &State) -> Status {
    engine.link().drive(state, Some(Instant::now() + WATCHDOG));
    state.status().expect("the batch did not end")
}

pub(crate) fn eventually(mut fact: impl FnMut() -> bool) {
    let until = Instant::now() + WATCHDOG;
    while !fact() {
        assert!(Instant::now() < until, "it did not come to pass");
        std::thread::sleep(Duration::from_millis(1));
    }
}
