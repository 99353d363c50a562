//! Two ends of a link by HIXL, without the link engine between.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use ropeway_ascend::hixl::offer::{Api, Offer};
use ropeway_ascend::hixl::{HixlC, HixlClass, HixlConfig};
use ropeway_ascend::link::{Connected, Desc, Failure, Mover, Native, Polled, PostError, Request};
use ropeway_ascend::{Npu, NpuConfig, Work};
use ropeway_core::{Limits, Op, RegionId, Result};
use ropeway_testkit::cann::SimCann;
use ropeway_testkit::cannot_run;
use ropeway_testkit::simulator::Simulator;
use ropeway_transport::{Janitor, Memory, Role};

/// How long something may take before it counts as hanging.
pub(crate) const WAIT: Duration = Duration::from_secs(60);
/// What a call is given that should not take long.
pub(crate) const SHORT: Duration = Duration::from_secs(10);
/// Bytes of each end's region.
pub(crate) const REGION: usize = 2 << 20;

/// The simulator, or a note why `test` cannot run.
pub(crate) fn simulator(test: &str) -> Option<&'static Simulator> {
    of(test, &SimCann::default().chip("a2"))
}

/// The same, of another release or chip. One for each test program.
pub(crate) fn of(test: &str, cann: &SimCann) -> Option<&'static Simulator> {
    match Simulator::start(cann) {
        Ok(simulator) => Some(simulator),
        Err(why) => {
            cannot_run(test, &why);
            None
        }
    }
}

/// One engine's HIXL and a region of its NPU.
pub(crate) struct End {
    pub(crate) native: Arc<dyn Native>,
    pub(crate) npu: Arc<Npu>,
    pub(crate) memory: Arc<Memory>,
    facts: Offer,
}

/// A mover from one end, with one region on each side.
pub(crate) struct Way {
    mover: Box<dyn Mover>,
    native: Arc<dyn Native>,
    pub(crate) local: u64,
    pub(crate) remote: u64,
}

impl End {
    pub(crate) fn open(
        simulator: &Simulator,
        device: u32,
        api: Api,
        change: impl FnOnce(&mut HixlConfig),
    ) -> Self {
        Self::try_open(simulator, device, api, change).unwrap()
    }

    pub(crate) fn try_open(
        simulator: &Simulator,
        device: u32,
        api: Api,
        change: impl FnOnce(&mut HixlConfig),
    ) -> Result<Self> {
        let janitor = Janitor::start().unwrap();
        let config = NpuConfig::new(device)
            .with_cann_path(simulator.root())
            .with_node("node0")
            .with_address([127, 0, 0, 1].into())
            .with_hccn_conf(simulator.root().join("etc/node0/hccn.conf"));
        let npu = Npu::open(config, &Limits::default(), &janitor)?;
        let mut config = HixlConfig::of(npu.config());
        change(&mut config);
        let (native, facts): (Arc<dyn Native>, _) = match api {
            Api::Class => {
                let native = HixlClass::open(&npu, &config)?;
                let facts = native.facts().clone();
                (Arc::new(native), facts)
            }
            Api::C => {
                let native = HixlC::open(&npu, &config)?;
                let facts = native.facts().clone();
                (Arc::new(native), facts)
            }
        };
        let memory = npu.alloc(REGION as u64)?;
        Ok(Self { native, npu, memory, facts })
    }

    pub(crate) fn facts(&self) -> &Offer {
        &self.facts
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; REGION];
        self.memory.read(0, &mut bytes).unwrap();
        bytes
    }
}

/// Movers for both directions, regions exchanged, not connected.
pub(crate) fn prepare(one: &End, two: &End) -> (Way, Way) {
    one.native.enter().unwrap();
    let from = one.native.open(&two.native.offer(), Role::Active).unwrap();
    two.native.enter().unwrap();
    let to = two.native.open(&one.native.offer(), Role::Passive).unwrap();
    let way = |mover, end: &End| {
        let local = end.memory.device().unwrap().address();
        Way { mover, native: Arc::clone(&end.native), local, remote: 0 }
    };
    let (mut from, mut to) = (way(from, one), way(to, two));
    let ours = from.mover().register(id(0), &one.memory).unwrap();
    let theirs = to.mover().register(id(0), &two.memory).unwrap();
    let len = REGION as u64;
    from.remote = from.mover().import(id(0), len, &theirs).unwrap().base;
    to.remote = to.mover().import(id(0), len, &ours).unwrap().base;
    (from, to)
}

/// The same, the first one connected.
pub(crate) fn link(one: &End, two: &End) -> (Way, Way) {
    let (mut from, to) = prepare(one, two);
    from.connect();
    (from, to)
}

/// What is left of a link is taken down in the order that the link engine keeps.
impl Drop for Way {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.mover().disconnect(SHORT);
            (0..16).for_each(|slot| self.mover().deregister(id(slot)).unwrap());
        }
    }
}

impl Way {
    /// The mover, on a thread that has its device's context from here on: a test's thread plays those of all engines.
    pub(crate) fn mover(&mut self) -> &mut dyn Mover {
        self.native.enter().unwrap();
        &mut *self.mover
    }

    pub(crate) fn connect(&mut self) {
        assert_eq!(self.mover().connect(SHORT).unwrap(), Connected::New);
    }

    pub(crate) fn desc(&self, local: u64, remote: u64, len: u64) -> Desc {
        Desc { local: self.local + local, remote: self.remote + remote, len }
    }

    /// Posts and waits for the end.
    pub(crate) fn run(&mut self, op: Op, descs: &[Desc]) -> Result<(), Failure> {
        let request = match self.mover().post(op, descs) {
            Ok(request) => request,
            Err(PostError::Failed(failure)) => return Err(failure),
            Err(refused @ (PostError::Busy(_) | PostError::Cut { .. })) => panic!("{refused:?}"),
        };
        self.end(request)
    }

    pub(crate) fn end(&mut self, request: Request) -> Result<(), Failure> {
        let start = Instant::now();
        loop {
            match self.mover.poll(request) {
                Polled::Waiting => assert!(start.elapsed() < WAIT, "a request does not end"),
                Polled::Done => return Ok(()),
                Polled::Failed(failure) => return Err(failure),
            }
            std::thread::yield_now();
        }
    }
}

pub(crate) fn id(slot: u32) -> RegionId {
    RegionId { slot, generation: 1 }
}

/// Memory of the NPU on pages of 4 KiB, as small tensors have.
pub(crate) fn small_pages(npu: &Arc<Npu>) -> Arc<Memory> {
    let address = npu.device().call(Work::Slow, "test", |on| {
        let mut raw = std::ptr::null_mut();
        // SAFETY: writes one pointer to a local.
        let code =
            unsafe { (on.acl().aclrtMalloc)(&mut raw, 65_536, ascend_sys::acl::ACL_MEM_MALLOC_NORMAL_ONLY) };
        assert_eq!(code, 0);
        raw as u64
    });
    // SAFETY: never freed.
    unsafe { npu.register(address.unwrap(), 65_536, Box::new(())) }.unwrap()
}

/// Pieces of one allocation, 4 KiB each, as somebody else's regions.
pub(crate) fn pieces(npu: &Arc<Npu>, count: u64) -> Vec<Arc<Memory>> {
    let whole = npu.alloc(count * 4096).unwrap();
    let base = whole.device().unwrap().address();
    let piece = |at: u64| {
        // SAFETY: the keep-alive holds the allocation.
        unsafe { npu.register(base + at * 4096, 4096, Box::new(Arc::clone(&whole))) }.unwrap()
    };
    (0..count).map(piece).collect()
}

/// Bytes that differ from their neighbours.
pub(crate) fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at as u8).wrapping_mul(31).wrapping_add((at >> 8) as u8).wrapping_add(seed)).collect()
}

/// Waits for something that comes without being told of.
pub(crate) fn eventually_some<T>(what: &str, mut get: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(it) = get() {
            return it;
        }
        assert!(start.elapsed() < WAIT, "{what}: not so after {WAIT:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
