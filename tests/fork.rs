//! Fork in mid-copy: the child has the engine's tables and none of its threads. Its calls are refused before they take a
//! lock, its drops do nothing, and whatever it does at its end, the parent works on.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ropeway::{
    BlockId, Engine, Error, ErrorKind, Host, LeaseOptions, Limits, Op, Plan, Rights, Strided, Submit,
    Transfer, TransportKind,
};
use ropeway_testkit::conformance::{Ground, OwnerLease, Pair};
use ropeway_testkit::oracle::Image;
use ropeway_testkit::watchdog::{WAIT, bounded};

const BLOCK: u64 = 64 << 10;
const BLOCKS: u32 = 512;
const BYTES: u64 = BLOCKS as u64 * BLOCK;

/// One fork at a time: what other tests' threads hold at that moment is no part of what is tested.
static ALONE: Mutex<()> = Mutex::new(());

/// A forked child that exits leaves what is its parent's: nothing that a leak checker should report.
#[unsafe(no_mangle)]
extern "C" fn __lsan_is_turned_off() -> libc::c_int {
    1
}

/// Everything that a program holds of an engine.
struct World {
    pair: Pair,
    lease: OwnerLease,
    cache: ropeway::Cache,
    route: ropeway::Route,
    grant: ropeway::Grant,
    plan: Plan,
    transfer: Transfer,
}

fn world(kind: TransportKind) -> (World, Image) {
    let ground = Ground::of(kind);
    let pair = ground.pair_with(BYTES, Limits::default().with_copy_threads(2));
    let (owners, cache) = (pair.owner.dense(BLOCK), pair.importer.dense(BLOCK));
    Image::fill(&pair.importer.region, 1);
    let theirs = Image::fill(&pair.owner.region, 2);
    let all: Vec<_> = (0..BLOCKS).map(BlockId).collect();
    let (lease, grant) = pair.lease(&owners, &[&all], Rights::Read);
    let route = pair.route(&cache);
    // One end waits in the queue: it is the parent's to drain.
    let small = route.read(&grant, &[&all[..1]], &[&all[..1]]).expect("planned");
    assert!(
        small.submit(Submit::default().user_data(2)).expect("submitted").wait(WAIT).expect("ends").is_ok()
    );
    let plan = route.plan(Op::Read, &grant, None, &[&all], &[&all]).expect("planned");
    let transfer = plan.submit(Submit::default().user_data(1)).expect("submitted");
    (World { pair, lease, cache, route, grant, plan, transfer }, theirs)
}

/// Runs `act` in a forked child; gives what the child ended with. A child that hangs is killed by its alarm.
fn in_child(act: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child runs on this thread's copy alone, calls what is under test, and ends by `_exit` or `exit`.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    if pid == 0 {
        // SAFETY: a system call.
        unsafe { libc::alarm(40) };
        let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act)).unwrap_or(99);
        // SAFETY: ends the child without running what belongs to the parent.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: our own child, waited for once.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!(waited, pid, "waitpid: {}", std::io::Error::last_os_error());
    if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 1000 + libc::WTERMSIG(status) }
}

fn is_forked<T>(result: Result<T, Error>) -> bool {
    result.err().is_some_and(|error| error.kind() == ErrorKind::Forked)
}

impl World {
    /// The number of the first call that is not refused; 0 when all are.
    fn first_let_through(&self, pending: &mut Option<ropeway::Pending<ropeway::Route>>) -> i32 {
        let Self { pair, lease, cache, route, grant, plan, transfer } = self;
        let (engine, region, peer) = (&pair.importer.engine, &pair.importer.region, &pair.peer);
        let blocks: &[BlockId] = &[BlockId(0)];
        let calls: [(i32, bool); 20] = [
            (1, is_forked(engine.alloc(Host::private(4096)))),
            (2, is_forked(engine.register(vec![0u8; 16]))),
            (3, is_forked(engine.connect(&pair.owner.engine.descriptor(), WAIT))),
            (4, is_forked(engine.close(WAIT))),
            (5, is_forked(region.read(0, &mut [0; 8]))),
            (6, is_forked(region.write(0, &[0; 8]))),
            (7, is_forked(region.fill(0, 8, 0))),
            (8, is_forked(region.close(WAIT))),
            (9, is_forked(cache.lease(&[blocks], Rights::Read, LeaseOptions::default()))),
            (10, is_forked(peer.claim(&lease.token(), WAIT))),
            (11, is_forked(peer.route(cache, "kv", WAIT))),
            (12, is_forked(peer.close(WAIT))),
            (13, is_forked(plan.submit(Submit::default()).map_err(Error::from))),
            (14, transfer.wait(WAIT).is_some_and(is_forked)),
            (
                15,
                is_forked(
                    route
                        .read(grant, &[blocks], &[blocks])
                        .and_then(|plan| plan.submit(Submit::default()).map_err(Error::from)),
                ),
            ),
            (16, engine.peers().is_empty()),
            (17, engine.completions().wait(Duration::ZERO).is_none()),
            (19, !lease.is_free() && lease.arrivals() == 0 && engine.quarantined().is_empty()),
            (20, pending.take().is_some_and(|pending| is_forked(pending.wait()))),
            (18, lease.wait_free(Duration::ZERO).is_none() && !peer.wait_for_room(Duration::ZERO)),
        ];
        calls.into_iter().find(|(_, refused)| !refused).map_or(0, |(number, _)| number)
    }
}

/// After the child's end: the transfer that was on its way, another one, and an orderly close.
fn parent_works_on(world: World, theirs: &Image) {
    let World { pair, lease, cache, route, grant, plan, transfer } = world;
    assert!(pair.importer.engine.completions().wait(WAIT).is_some(), "the end that was there before");
    assert!(transfer.wait(WAIT).expect("ends").is_ok());
    theirs.check(&pair.importer.region, "importer after the fork");
    Image::fill(&pair.importer.region, 3);
    assert!(plan.submit(Submit::default()).expect("submitted").wait(WAIT).expect("ends").is_ok());
    theirs.check(&pair.importer.region, "importer of the second transfer");
    drop((plan, grant, transfer, route, cache));
    assert!(lease.wait_free(WAIT).is_some());
    drop(lease);
    pair.close();
}

fn kinds() -> [TransportKind; 4] {
    [TransportKind::Loopback, TransportKind::Shm, TransportKind::Cma, TransportKind::Tcp]
}

#[test]
fn every_call_of_a_forked_child_is_refused() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    bounded("every_call_of_a_forked_child_is_refused", || {
        for kind in kinds() {
            let (world, theirs) = world(kind);
            let mut pending = Some(world.pair.peer.route(&world.cache, "kv", WAIT).expect("asked"));
            let through = in_child(|| world.first_let_through(&mut pending));
            assert_eq!(through, 0, "{kind}: this call was let through");
            assert!(pending.expect("the parent's").wait().is_ok());
            parent_works_on(world, &theirs);
        }
    });
}

#[test]
fn drops_of_a_forked_child_leave_the_parent_alone() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    bounded("drops_of_a_forked_child_leave_the_parent_alone", || {
        for kind in kinds() {
            let (world, theirs) = world(kind);
            let mut world = Some(world);
            let code = in_child(|| {
                drop(world.take());
                0
            });
            assert_eq!(code, 0, "{kind}: dropping in the child");
            parent_works_on(world.expect("still the parent's"), &theirs);
        }
    });
}

#[test]
fn an_exit_of_a_forked_child_leaves_the_parent_alone() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    bounded("an_exit_of_a_forked_child_leaves_the_parent_alone", || {
        for kind in kinds() {
            let (world, theirs) = world(kind);
            // `exit` runs what was registered for the end of the process.
            // SAFETY: of the child, which has one thread.
            assert_eq!(in_child(|| unsafe { libc::exit(7) }), 7, "{kind}");
            parent_works_on(world, &theirs);
        }
    });
}

#[test]
fn a_forked_child_can_open_an_engine_of_its_own() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    bounded("a_forked_child_can_open_an_engine_of_its_own", || {
        let (world, theirs) = world(TransportKind::Loopback);
        let own = || -> ropeway::Result<bool> {
            let engine = Engine::builder().open()?;
            let region = engine.alloc(Host::private(1 << 16))?;
            region.fill(0, 1 << 16, 5)?;
            let strided = Strided::dense(0, 4096, 16);
            let cache = engine.cache("own").group("g0", 1).part("p", &region, strided).publish()?;
            let lease = cache.lease(&[&[BlockId(1)]], Rights::Read, LeaseOptions::default())?;
            let peer = engine.connect(&engine.descriptor(), WAIT)?.wait()?;
            let grant = peer.claim(&lease.token(), WAIT)?.wait()?;
            let route = peer.route(&cache, "own", WAIT)?.wait()?;
            let plan = route.read(&grant, &[&[BlockId(2)]], &[&[BlockId(1)]])?;
            let moved = plan.submit(Submit::default())?.wait(WAIT).is_some_and(|end| end.is_ok());
            Ok(moved && is_forked(world.pair.importer.region.read(0, &mut [0; 8])))
        };
        assert_eq!(in_child(|| i32::from(!own().unwrap_or(false))), 0);
        parent_works_on(world, &theirs);
    });
}
