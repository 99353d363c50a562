//! Shared memory, huge pages, limits, and who may copy from whom.

use std::io;

use ropeway_ascend::node::Machine;

use super::Finding;
use crate::output;
use crate::pool::Pool;

const AREA: &str = "memory";
/// Fewer open files than this are soon used up: two sockets and a memfd a peer, a memfd a region.
const FILES_MIN: u64 = 4096;

pub(super) fn look(machine: &Machine) -> Vec<Finding> {
    vec![
        room(machine),
        huge(machine),
        memfd(),
        ptrace(machine),
        copies(),
        limit("locked memory", libc::RLIMIT_MEMLOCK, 0, ""),
        limit(
            "open files",
            libc::RLIMIT_NOFILE,
            FILES_MIN,
            "a peer takes about four, a region one: raise `ulimit -n` (LimitNOFILE in systemd)",
        ),
    ]
}

/// Memory that is left, and what the cgroup leaves of it.
fn room(machine: &Machine) -> Finding {
    let info = machine.read("/proc/meminfo").unwrap_or_default();
    let line = |name: &str| -> Option<u64> {
        let rest = info.lines().find_map(|line| line.strip_prefix(name))?;
        rest.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
    };
    let (total, available) = (line("MemTotal:").unwrap_or(0), line("MemAvailable:").unwrap_or(0));
    let found = format!("{} of {} available", output::bytes(available), output::bytes(total));
    let Some((limit, used)) = cgroup(machine) else { return Finding::good(AREA, "host memory", found) };
    let left = limit.saturating_sub(used);
    let found = format!("{found}; the cgroup leaves {} of {}", output::bytes(left), output::bytes(limit));
    if left < 1 << 30 {
        return Finding::note(
            AREA,
            "host memory",
            found,
            "memfds count towards the cgroup: a pool larger than what is left ends the process; raise the memory limit",
        );
    }
    Finding::good(AREA, "host memory", found)
}

/// Limit and use of the memory cgroup, if it sets a limit.
fn cgroup(machine: &Machine) -> Option<(u64, u64)> {
    let number = |path: &str| machine.read(path).ok()?.trim().parse::<u64>().ok();
    let files = [
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ];
    let (limit, used) = files.iter().find_map(|(limit, used)| Some((number(limit)?, number(used)?)))?;
    // Version 1 writes the largest multiple of a page for "none".
    (limit < 1 << 60).then_some((limit, used))
}

fn huge(machine: &Machine) -> Finding {
    let chosen = |path: &str| {
        let text = machine.read(path).unwrap_or_default();
        text.split(['[', ']']).nth(1).unwrap_or("not there").to_owned()
    };
    let private = chosen("/sys/kernel/mm/transparent_hugepage/enabled");
    let shared = chosen("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
    let found = format!("transparent: {private} for private memory, {shared} for shared");
    if matches!(private.as_str(), "always" | "madvise") {
        return Finding::good(AREA, "huge pages", found);
    }
    Finding::note(
        AREA,
        "huge pages",
        found,
        "cma costs 5 to 25 % more with pages of 4 KiB: echo madvise > \
         /sys/kernel/mm/transparent_hugepage/enabled",
    )
}

fn memfd() -> Finding {
    match Pool::shared(1 << 16) {
        Ok(_) => Finding::good(AREA, "memfd", "can be made, sized and mapped"),
        Err(error) => Finding::wrong(
            AREA,
            "memfd",
            error,
            "shm needs memfd_create: allow it in the seccomp profile, and leave vm.memfd_noexec below 2",
        ),
    }
}

fn ptrace(machine: &Machine) -> Finding {
    let path = "/proc/sys/kernel/yama/ptrace_scope";
    let scope = machine.read(path).ok().and_then(|text| text.trim().parse::<u32>().ok());
    match scope {
        None => {
            Finding::good(AREA, "ptrace scope", "no Yama: processes of one user may copy from each other")
        }
        Some(0) => Finding::good(AREA, "ptrace scope", "0: processes of one user may copy from each other"),
        Some(scope) => Finding::note(
            AREA,
            "ptrace scope",
            format!("{scope}: cma does not work between processes that are no parent and child"),
            format!("peers on this host use shm or tcp; for cma: echo 0 > {path}, or grant CAP_SYS_PTRACE"),
        ),
    }
}

/// Whether the kernel copies between processes at all: a seccomp profile may forbid it.
fn copies() -> Finding {
    let (from, mut to) = ([7u8; 8], [0u8; 8]);
    let remote = libc::iovec { iov_base: from.as_ptr().cast_mut().cast(), iov_len: from.len() };
    let local = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: to.len() };
    let own = std::process::id() as libc::pid_t;
    // SAFETY: both ranges are arrays of this function, of the lengths given; only `to` is written.
    let copied = unsafe { libc::process_vm_readv(own, &local, 1, &remote, 1, 0) };
    if copied == 8 && std::hint::black_box(to) == from {
        return Finding::good(AREA, "process_vm_readv", "works");
    }
    Finding::note(
        AREA,
        "process_vm_readv",
        io::Error::last_os_error(),
        "cma does not work: allow process_vm_readv and process_vm_writev in the seccomp profile",
    )
}

fn limit(name: &'static str, which: libc::__rlimit_resource_t, least: u64, mend: &'static str) -> Finding {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call writes one rlimit.
    if unsafe { libc::getrlimit(which, &mut limit) } != 0 {
        return Finding::note(AREA, name, io::Error::last_os_error(), "the limit cannot be read");
    }
    let word = |value: u64| {
        if value == libc::RLIM_INFINITY { "unlimited".to_owned() } else { output::grouped(value) }
    };
    let found = format!("{} (hard limit {})", word(limit.rlim_cur), word(limit.rlim_max));
    if limit.rlim_cur < least {
        return Finding::note(AREA, name, found, mend);
    }
    Finding::good(AREA, name, found)
}
