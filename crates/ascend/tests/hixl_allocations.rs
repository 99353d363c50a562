//! Nothing is allocated per descriptor on the way through `hixl`. The simulator has an allocator of its own, which is not
//! counted: what it allocates is the library's.

mod posting;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

use posting::{BLOCKS, Pair, run};
use ropeway_testkit::cann::SimCann;
use ropeway_testkit::cannot_run;
use ropeway_testkit::simulator::Simulator;

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(at, layout, bytes) }
    }
}

/// The fewest allocations that `work` took in some tries: threads beside it may allocate now and then.
fn allocations(mut work: impl FnMut()) -> u64 {
    let tries = (0..7).map(|_| {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        work();
        ALLOCATIONS.load(Ordering::Relaxed) - before
    });
    tries.min().unwrap_or_default()
}

#[test]
fn nothing_is_allocated_per_descriptor_posted_by_hixl() {
    let simulator = match Simulator::start(&SimCann::default()) {
        Ok(simulator) => simulator,
        Err(why) => return cannot_run("hixl: allocations", &why),
    };
    for c_api in [false, true] {
        let pair = Pair::new(simulator, c_api);
        let (few, many) = (pair.read(16), pair.read(BLOCKS));
        let (few, many) = (allocations(|| run(&few)), allocations(|| run(&many)));
        // Nine requests instead of one: whatever each takes, it is no allocation per descriptor.
        assert!(
            many <= few + 64,
            "{few} allocations for 16 descriptors, {many} for {BLOCKS} (C functions: {c_api})"
        );
    }
}
