use super::*;

fn report(states: &[State]) -> Report {
    let findings =
        states.iter().map(|&state| Finding { state, ..Finding::good("host", "name", "found") }).collect();
    Report { command: "doctor", version: "0", simulated: false, findings }
}

#[test]
fn the_exit_code_tells_wrong_from_absent() {
    use State::{Absent, Good, Note, Wrong};
    let exit = |states: &[State]| format!("{:?}", report(states).exit());
    let code = |code: u8| format!("{:?}", ExitCode::from(code));
    assert_eq!(exit(&[Good, Note]), code(0));
    assert_eq!(exit(&[Good, Absent]), code(3));
    assert_eq!(exit(&[Wrong, Absent]), code(1));
}

#[test]
fn a_finding_that_is_not_good_says_how_to_mend_it() {
    let machine = Machine::at("/nowhere", []);
    let findings = [host::look(&machine), memory::look(&machine), network::look(&machine)].concat();
    assert!(findings.len() > 12);
    for finding in findings {
        assert_eq!(finding.mend.is_some(), finding.state != State::Good, "{finding}");
    }
}

/// A folder that stands for a machine's root.
struct Root(std::path::PathBuf);

impl Root {
    fn new(name: &str, files: &[(&str, &str)]) -> Self {
        let root = std::env::temp_dir().join(format!("ropeway-doctor-{}-{name}", std::process::id()));
        for (path, text) in files {
            let path = root.join(path.trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Self(root)
    }

    fn machine(&self) -> Machine {
        Machine::at(&self.0, [])
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn state(findings: &[Finding], name: &str) -> State {
    findings.iter().find(|finding| finding.name == name).unwrap_or_else(|| panic!("no {name}")).state
}

#[test]
fn what_hinders_is_found_and_what_does_not_is_not() {
    let bad = Root::new(
        "bad",
        &[
            ("/proc/sys/kernel/osrelease", "4.19.90-vhulk\n"),
            ("/proc/sys/kernel/yama/ptrace_scope", "1\n"),
            ("/sys/fs/cgroup/cpu.max", "10000 100000\n"),
            ("/sys/fs/cgroup/memory.max", "2147483648\n"),
            ("/sys/fs/cgroup/memory.current", "2000000000\n"),
            ("/sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n"),
            ("/proc/sys/net/ipv4/tcp_congestion_control", "bbr\n"),
            ("/proc/sys/net/core/rmem_max", "212992\n"),
        ],
    );
    let found =
        [host::look(&bad.machine()), memory::look(&bad.machine()), network::look(&bad.machine())].concat();
    assert_eq!(state(&found, "kernel"), State::Wrong);
    for name in ["ptrace scope", "cores", "host memory", "huge pages", "congestion control", "rmem_max"] {
        assert_eq!(state(&found, name), State::Note, "{name}");
    }
    let good = Root::new(
        "good",
        &[
            ("/proc/sys/kernel/osrelease", "6.6.0\n"),
            ("/proc/sys/kernel/yama/ptrace_scope", "0\n"),
            ("/sys/fs/cgroup/cpu.max", "max 100000\n"),
            ("/sys/fs/cgroup/memory.max", "max\n"),
            ("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
            ("/proc/sys/net/ipv4/tcp_congestion_control", "cubic\n"),
            ("/proc/sys/net/core/rmem_max", "8388608\n"),
        ],
    );
    let found =
        [host::look(&good.machine()), memory::look(&good.machine()), network::look(&good.machine())].concat();
    for name in
        ["kernel", "ptrace scope", "cores", "host memory", "huge pages", "congestion control", "rmem_max"]
    {
        assert_eq!(state(&found, name), State::Good, "{name}");
    }
}
