//! What a peer, a lease and a transfer in flight hold in memory: the figures of `docs/OPERATIONS.md`.
//!
//! One test only: the counter sees every thread of the process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use ropeway::{
    BlockId, Cache, Engine, Event, Host, LeaseOptions, Peer, Rights, Start, Strided, Submit, TransportKind,
};

const WAIT: Duration = Duration::from_secs(60);
const BLOCKS: u32 = 1024;
const BLOCK_BYTES: u64 = 4096;

struct Counting;

static LIVE: AtomicI64 = AtomicI64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

/// KiB that stay allocated after `work`, for each of `count` things that it makes.
fn kib_each<T>(count: u64, work: impl FnOnce() -> T) -> (f64, T) {
    let before = LIVE.load(Ordering::Relaxed);
    let made = work();
    let bytes = LIVE.load(Ordering::Relaxed) - before;
    (bytes as f64 / count as f64 / 1024.0, made)
}

struct Side {
    engine: Engine,
    cache: Cache,
}

fn side(kind: TransportKind) -> Side {
    let listen = "127.0.0.1:0".parse().expect("an address");
    let engine = Engine::builder().listen(listen).transports(&[kind]).open().expect("it opens");
    let bytes = u64::from(BLOCKS) * BLOCK_BYTES;
    let region = engine.alloc(Host::shared(bytes)).expect("memory");
    let paged = Strided::dense(0, BLOCK_BYTES, BLOCKS);
    let cache = engine.cache("kv").group("g", 1).part("k", &region, paged).publish().expect("a cache");
    Side { engine, cache }
}

/// Peer (one side's share), lease of 64 blocks, transfer of 64 blocks in flight; in KiB.
fn footprint(kind: TransportKind) -> [f64; 3] {
    const PEERS: u64 = 4;
    const TRANSFERS: u64 = 64;
    let ids: Vec<BlockId> = (0..64).map(|at| BlockId(at * 2)).collect();
    let ours = side(kind);
    let theirs: Vec<Side> = (0..PEERS).map(|_| side(kind)).collect();
    let connect = |other: &Side| -> Peer {
        let peer = ours
            .engine
            .connect(&other.engine.descriptor(), WAIT)
            .expect("it starts")
            .wait()
            .expect("it connects");
        peer.route(&ours.cache, "kv", WAIT).expect("it starts").wait().expect("it fits");
        peer
    };
    let (both, peers) = kib_each(PEERS, || theirs.iter().map(connect).collect::<Vec<Peer>>());
    let grant_lease =
        || theirs[0].cache.lease(&[&ids], Rights::Read, LeaseOptions::default()).expect("a lease");
    let (lease, leases) = kib_each(32, || (0..32).map(|_| grant_lease()).collect::<Vec<_>>());
    let route = peers[0].route(&ours.cache, "kv", WAIT).expect("it starts").wait().expect("it fits");
    let grant = peers[0].claim(&leases[0].token(), WAIT).expect("it starts").wait().expect("it is open");
    let plan = route.read(&grant, &[&ids], &[&ids]).expect("it fits");
    let event = Event::new();
    let submit =
        || plan.submit(Submit::default().start(Start::AfterEvent(event.clone()))).expect("there is room");
    let (transfer, transfers) = kib_each(TRANSFERS, || (0..TRANSFERS).map(|_| submit()).collect::<Vec<_>>());
    event.fire();
    for transfer in transfers {
        transfer.wait(WAIT).expect("it ends").expect("it completes");
    }
    [both / 2.0, lease, transfer]
}

#[test]
fn memory_is_what_the_operations_page_says() {
    footprint(TransportKind::Loopback); // what the process makes once
    for kind in [TransportKind::Loopback, TransportKind::Shm, TransportKind::Tcp] {
        for (what, held, most) in [("peer", 512.0), ("lease", 2.0), ("transfer", 1.0)]
            .into_iter()
            .zip(footprint(kind))
            .map(|((what, most), held)| (what, held, most))
        {
            assert!(held <= most, "{kind}: a {what} holds {held:.1} KiB, the page says at most {most}");
        }
    }
}
