//! Kernel, cores, clock.

use std::time::Instant;

use ropeway_ascend::node::Machine;

use super::Finding;
use crate::usage;

const AREA: &str = "host";
/// Readings of the clock that are timed.
const CLOCK_READS: u32 = 10_000;
/// A clock that takes longer is not read in user space.
const CLOCK_NS_MAX: u128 = 250;
/// pidfds, which prove a peer's death.
const KERNEL_MIN: (u32, u32) = (5, 3);
/// Populating pages without writing to them.
const KERNEL_POPULATE: (u32, u32) = (5, 14);

pub(super) fn look(machine: &Machine) -> Vec<Finding> {
    let mut findings = vec![
        Finding::good(AREA, "ropeway", env!("CARGO_PKG_VERSION")),
        kernel(machine),
        cores(machine),
        clock(machine),
    ];
    if machine.in_container() {
        findings.push(Finding::good(AREA, "container", "yes"));
    }
    findings.push(Finding::good(AREA, "engine's calibration", ropeway::Calibration::of_this_machine()));
    findings
}

fn kernel(machine: &Machine) -> Finding {
    let release = machine.read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let found = format!("Linux {release}, {}", std::env::consts::ARCH);
    match version(release) {
        Some(version) if version < KERNEL_MIN => Finding::wrong(
            AREA,
            "kernel",
            found,
            "shm and cma need Linux 5.3 or later (pidfds); use tcp, or a newer kernel",
        ),
        Some(version) if version < KERNEL_POPULATE => Finding::note(
            AREA,
            "kernel",
            found,
            "before Linux 5.14 pages of a pool are made at first touch, which the first transfers pay for",
        ),
        _ => Finding::good(AREA, "kernel", found),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn cores(machine: &Machine) -> Finding {
    let allowed = usage::cores();
    let online = machine.read("/sys/devices/system/cpu/online").unwrap_or_default();
    let found = format!("{allowed} usable (online: {})", online.trim());
    match quota(machine) {
        Some(quota) if quota + 0.5 < f64::from(allowed) => Finding::note(
            AREA,
            "cores",
            format!("{found}, but the cgroup gives the time of {quota:.1}"),
            "threads stop for up to 100 ms when the quota is spent, and latencies jump: raise the CPU limit, or set \
             copy_threads to it",
        ),
        _ => Finding::good(AREA, "cores", found),
    }
}

/// How many cores' time the cgroup grants, if it sets a limit.
fn quota(machine: &Machine) -> Option<f64> {
    let number = |text: &str| text.trim().parse::<f64>().ok();
    if let Ok(text) = machine.read("/sys/fs/cgroup/cpu.max") {
        let (quota, period) = text.split_once(' ')?;
        return Some(number(quota)? / number(period)?);
    }
    let quota = number(&machine.read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").ok()?)?;
    let period = number(&machine.read("/sys/fs/cgroup/cpu/cpu.cfs_period_us").ok()?)?;
    (quota > 0.0).then_some(quota / period)
}

fn clock(machine: &Machine) -> Finding {
    let source = machine.read("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    let source = source.unwrap_or_else(|_| "unknown".to_owned());
    let start = Instant::now();
    for _ in 0..CLOCK_READS {
        std::hint::black_box(Instant::now());
    }
    let each = start.elapsed().as_nanos() / u128::from(CLOCK_READS);
    let found = format!("{}, {each} ns a reading", source.trim());
    if each <= CLOCK_NS_MAX {
        return Finding::good(AREA, "clock", found);
    }
    Finding::note(
        AREA,
        "clock",
        found,
        "every reading is a system call (or the machine is busy): choose tsc or kvm-clock in \
         /sys/devices/system/clocksource/clocksource0/current_clocksource",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_as_numbers() {
        assert_eq!(version("6.18.5-generic"), Some((6, 18)));
        assert!(version("5.10.0-60.18.0.50.oe2203.aarch64").unwrap() < KERNEL_POPULATE);
        assert_eq!(version(""), None);
    }
}
