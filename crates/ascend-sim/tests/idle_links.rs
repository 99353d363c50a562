//! What links cost when nothing is to be done.

mod links;

use std::time::Duration;

use ascend_sim::ffi::{In, Out};
use ascend_sim::hccl::RootInfo;
use ascend_sim::hccl::ffi::*;
use links::*;

/// How often the simulator's threads for links were scheduled, each by its name and number.
fn switches() -> Vec<String> {
    let mut all = Vec::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        // One that ends meanwhile has no status.
        let Ok(status) = std::fs::read_to_string(task.unwrap().path().join("status")) else { continue };
        if status.starts_with("Name:\tsim-") {
            let told = |line: &&str| {
                ["Name", "Pid", "voluntary", "nonvoluntary"].iter().any(|key| line.starts_with(key))
            };
            all.push(status.lines().filter(told).collect::<Vec<_>>().join(" "));
        }
    }
    all.sort();
    all
}

#[test]
fn threads_of_links_and_communicators_sleep_when_idle() {
    let two = Two::linked(&[CLIENT_SERVER]);
    assert_eq!(two.near.sync(&two.far, WRITE, &[two.desc(0, 64)], PATIENCE), SUCCESS);
    let mut info = RootInfo { internal: [0; 4108] };
    assert_eq!(sim_HcclGetRootInfo(Out::from(&mut info)), 0);
    let mut comm = 0;
    assert_eq!(sim_HcclCommInitRootInfo(1, In::from(&info), 0, Out::from(&mut comm)), 0);
    let asleep = (0..100).any(|_| {
        let before = switches();
        std::thread::sleep(Duration::from_millis(100));
        // Two listeners, a mover; a list of ranks, a mailbox and a matcher.
        before.len() >= 6 && before == switches()
    });
    assert!(asleep, "the threads keep running: {:#?}", switches());
}
