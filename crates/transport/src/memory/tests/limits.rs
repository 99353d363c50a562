//! What the process may still take, read from fixtures in the place of `/proc` and `/sys`.

use std::collections::HashMap;
use std::path::Path;

use super::super::cgroup::{Limit, tightest};
use super::*;

fn found(files: &[(&str, &str)]) -> Option<(String, u64)> {
    let files: HashMap<&str, &str> = files.iter().copied().collect();
    let read = |path: &Path| files.get(path.to_str().unwrap()).map(|text| (*text).to_owned());
    tightest(&read).map(|limit| (limit.file.clone(), limit.room()))
}

const V2_MOUNT: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
const V1_MOUNT: &str = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                        36 31 0:33 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";

#[test]
fn the_tightest_group_above_the_process_counts() {
    let files = [
        ("/proc/self/cgroup", "0::/pod/worker\n"),
        ("/proc/self/mountinfo", V2_MOUNT),
        ("/sys/fs/cgroup/pod/worker/memory.max", "max\n"),
        ("/sys/fs/cgroup/pod/worker/memory.current", "100\n"),
        ("/sys/fs/cgroup/pod/memory.max", "1000\n"),
        ("/sys/fs/cgroup/pod/memory.current", "900\n"),
        ("/sys/fs/cgroup/memory.max", "5000\n"),
        ("/sys/fs/cgroup/memory.current", "10\n"),
    ];
    assert_eq!(found(&files), Some(("/sys/fs/cgroup/pod/memory.max".into(), 100)));
}

#[test]
fn page_cache_that_the_kernel_gives_back_is_not_used() {
    let files = [
        ("/proc/self/cgroup", "0::/a\n"),
        ("/proc/self/mountinfo", V2_MOUNT),
        ("/sys/fs/cgroup/a/memory.max", "1000\n"),
        ("/sys/fs/cgroup/a/memory.current", "900\n"),
        (
            "/sys/fs/cgroup/a/memory.stat",
            "anon 300\nfile 600\ninactive_file 150\nactive_file 50\nshmem 400\n",
        ),
    ];
    assert_eq!(found(&files), Some(("/sys/fs/cgroup/a/memory.max".into(), 300)));
}

#[test]
fn version_1_is_read_with_its_totals() {
    let files = [
        ("/proc/self/cgroup", "9:name=systemd:/\n4:memory:/api/x\n1:cpu:/\n0::/\n"),
        ("/proc/self/mountinfo", V1_MOUNT),
        ("/sys/fs/cgroup/memory/api/x/memory.limit_in_bytes", "2000\n"),
        ("/sys/fs/cgroup/memory/api/x/memory.usage_in_bytes", "1500\n"),
        (
            "/sys/fs/cgroup/memory/api/x/memory.stat",
            "inactive_file 1\ntotal_inactive_file 100\ntotal_active_file 0\n",
        ),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "100000\n"),
    ];
    assert_eq!(found(&files), Some(("/sys/fs/cgroup/memory/api/x/memory.limit_in_bytes".into(), 600)));
}

#[test]
fn a_container_sees_its_group_at_the_mount_point() {
    let mount = "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro master:15 - cgroup cgroup rw,memory\n";
    let files = [
        ("/proc/self/cgroup", "4:memory:/docker/abc/sub\n"),
        ("/proc/self/mountinfo", mount),
        ("/sys/fs/cgroup/memory/sub/memory.limit_in_bytes", "70\n"),
        ("/sys/fs/cgroup/memory/sub/memory.usage_in_bytes", "0\n"),
    ];
    assert_eq!(found(&files).unwrap().1, 70);
    // Another namespace: the path leads out of the mount; its own root is what there is.
    let files = [
        ("/proc/self/cgroup", "0::/../../other\n"),
        ("/proc/self/mountinfo", V2_MOUNT),
        ("/sys/fs/cgroup/memory.max", "50\n"),
        ("/sys/fs/cgroup/memory.current", "0\n"),
    ];
    assert_eq!(found(&files).unwrap().1, 50);
}

#[test]
fn the_machine_is_a_limit_too() {
    let info = "MemTotal: 100 kB\nMemFree: 1 kB\nMemAvailable: 30 kB\nSwapTotal: 20 kB\nSwapFree: 5 kB\n";
    assert_eq!(found(&[("/proc/meminfo", info)]), Some(("/proc/meminfo".into(), 35 * 1024)));
}

#[test]
fn unreadable_or_odd_files_are_no_limit() {
    assert_eq!(found(&[]), None);
    for text in ["", "\n", "0", "0:", "::", "a b c - \n", "1 2 3 4 5 - cgroup2\n", "- - - -"] {
        assert_eq!(found(&[("/proc/self/cgroup", text), ("/proc/self/mountinfo", text)]), None, "{text:?}");
    }
    let files = [
        ("/proc/self/cgroup", "0::/a\n"),
        ("/proc/self/mountinfo", V2_MOUNT),
        ("/sys/fs/cgroup/a/memory.max", "many\n"),
        ("/sys/fs/cgroup/a/memory.current", "-1\n"),
    ];
    assert_eq!(found(&files), None);
}

#[test]
fn what_does_not_fit_is_refused_with_the_limit_named() {
    let limit = Limit { file: "/sys/fs/cgroup/a/memory.max".into(), max: 1000, used: 900 };
    limit.admit("test", 100).unwrap();
    let error = limit.admit("test", 101).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Resource);
    for part in ["101 bytes", "/sys/fs/cgroup/a/memory.max", "1000", "900", "100 are left"] {
        assert!(error.message().contains(part), "{part}: {error}");
    }
    // More than any machine has: refused before the kernel would have to kill.
    let error = super::super::cgroup::admit("test", 1 << 60).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Resource);
}

/// A group with a limit of 64 MiB below our own, if this process may make one. Removed when dropped.
struct Group(std::path::PathBuf);

impl Group {
    fn make() -> std::io::Result<Self> {
        let groups = std::fs::read_to_string("/proc/self/cgroup")?;
        let v1 = groups.lines().find_map(|line| line.split_once(":memory:")).map(|(_, path)| path);
        let v2 = groups.lines().find_map(|line| line.strip_prefix("0::"));
        let (point, path, limit) = match (v1, v2) {
            (Some(path), _) => ("/sys/fs/cgroup/memory", path, "memory.limit_in_bytes"),
            (None, Some(path)) => ("/sys/fs/cgroup", path, "memory.max"),
            (None, None) => return Err(std::io::ErrorKind::NotFound.into()),
        };
        let name = format!("{point}{path}/ropeway-test-{}", std::process::id());
        std::fs::create_dir(&name)?;
        let group = Self(name.into());
        std::fs::write(group.0.join(limit), "67108864")?;
        Ok(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn an_allocation_beyond_the_cgroups_limit_is_an_error_and_nobody_is_killed() {
    let group = match Group::make() {
        Ok(group) => group,
        Err(error) => {
            return ropeway_testkit::cannot_run(
                "an_allocation_beyond_the_cgroups_limit_is_an_error_and_nobody_is_killed",
                &format!("no memory cgroup can be made: {error}"),
            );
        }
    };
    let procs = group.0.join("cgroup.procs");
    assert!(super::forked::in_forked_child(|| {
        std::fs::write(&procs, std::process::id().to_string()).unwrap();
        let janitor = Janitor::start().unwrap();
        let error = Memory::shared(80 << 20, &janitor).unwrap_err();
        let named = error.message().contains("ropeway-test-") && error.message().contains("67108864");
        error.kind() == ErrorKind::Resource && named && Memory::shared(16 << 20, &janitor).is_ok()
    }));
}
