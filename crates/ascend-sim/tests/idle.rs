//! What the simulator costs when nothing is to be done.

use std::time::Duration;

use ascend_sim::work::Work;

/// How often the workers of this process were scheduled.
fn switches() -> Vec<String> {
    let mut all = Vec::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        if status.starts_with("Name:\tropeway-sim\n") {
            all.extend(status.lines().filter(|line| line.contains("ctxt_switches")).map(str::to_owned));
        }
    }
    all
}

#[test]
fn workers_sleep_when_idle_and_also_before_a_far_deadline() {
    let work = Work::new(2);
    let (queue, far) = (work.queue(), work.queue());
    let last = queue.push(Duration::from_millis(1), || 0);
    assert!(queue.wait(last, Some(Duration::from_secs(60))));
    let _ = far.push(Duration::from_secs(3600), || 0);
    // They are asleep once nothing changes any more: sought for a while, as the machine may be busy.
    let asleep = (0..100).any(|_| {
        let before = switches();
        std::thread::sleep(Duration::from_millis(100));
        !before.is_empty() && before == switches()
    });
    assert!(asleep, "the workers keep running: {:?}", switches());
    far.abort(0);
}
