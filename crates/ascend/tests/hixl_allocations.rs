//! Nothing is allocated per descriptor on the way through `hixl`. The simulator has an allocator of its own, which is not
//! counted: what it allocates is the library's.

mod posting;

use posting::{BLOCKS, Pair, run};
use ropeway_testkit::allocations::{Counting, fewest};
use ropeway_testkit::cann::SimCann;
use ropeway_testkit::cannot_run;
use ropeway_testkit::simulator::Simulator;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn nothing_is_allocated_per_descriptor_posted_by_hixl() {
    let simulator = match Simulator::start(&SimCann::default()) {
        Ok(simulator) => simulator,
        Err(why) => return cannot_run("hixl: allocations", &why),
    };
    for c_api in [false, true] {
        let pair = Pair::new(simulator, c_api);
        let (few, many) = (pair.read(16), pair.read(BLOCKS));
        let (few, many) = (fewest(|| run(&few)), fewest(|| run(&many)));
        // Nine requests instead of one: whatever each takes, it is no allocation per descriptor.
        assert!(
            many <= few + 64,
            "{few} allocations for 16 descriptors, {many} for {BLOCKS} (C functions: {c_api})"
        );
    }
}
