//! Interfaces, and what tcp will run with.

use std::net::TcpListener;
use std::path::Path;

use ropeway_ascend::node::Machine;

use super::Finding;
use crate::output;

const AREA: &str = "network";
/// Below this a stream cannot keep a fast, far link full.
const BUFFER_MIN: u64 = 4 << 20;

pub(super) fn look(machine: &Machine) -> Vec<Finding> {
    let mut findings = vec![loopback(), congestion(machine)];
    findings.extend(["rmem_max", "wmem_max"].map(|name| buffer(machine, name)));
    findings.push(interfaces(machine));
    findings
}

fn loopback() -> Finding {
    match TcpListener::bind("127.0.0.1:0") {
        Ok(_) => Finding::good(AREA, "loopback", "sockets can listen"),
        Err(error) => Finding::wrong(
            AREA,
            "loopback",
            error,
            "engines find each other by a session on tcp: bring lo up",
        ),
    }
}

fn congestion(machine: &Machine) -> Finding {
    let read = |name: &str| {
        let text = machine.read(&format!("/proc/sys/net/ipv4/{name}")).unwrap_or_default();
        text.trim().to_owned()
    };
    let chosen = read("tcp_congestion_control");
    let there = read("tcp_available_congestion_control");
    let found = format!("{chosen} (there: {there})");
    if chosen == "bbr" {
        return Finding::note(
            AREA,
            "congestion control",
            found,
            "on loopback and short links bbr costs up to half of the speed: net.ipv4.tcp_congestion_control = cubic",
        );
    }
    Finding::good(AREA, "congestion control", found)
}

fn buffer(machine: &Machine, name: &'static str) -> Finding {
    let path = format!("/proc/sys/net/core/{name}");
    let Some(bytes) = machine.read(&path).ok().and_then(|text| text.trim().parse::<u64>().ok()) else {
        return Finding::good(AREA, name, "not to be read here (a container)");
    };
    if bytes < BUFFER_MIN {
        return Finding::note(
            AREA,
            name,
            output::bytes(bytes),
            format!(
                "between hosts a stream fills the link only with more: sysctl net.core.{name}={BUFFER_MIN}, and more streams"
            ),
        );
    }
    Finding::good(AREA, name, output::bytes(bytes))
}

/// Names, speed and MTU; without an address book of its own: `ip addr` says the rest.
fn interfaces(machine: &Machine) -> Finding {
    let text = machine.read("/proc/net/dev").unwrap_or_default();
    let names = text.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()));
    let each: Vec<String> = names
        .filter(|name| name != "lo")
        .map(|name| {
            let of = |what: &str| {
                let path = Path::new("/sys/class/net").join(&name).join(what);
                machine.read(&path.to_string_lossy()).ok().map(|text| text.trim().to_owned())
            };
            let speed = of("speed").filter(|speed| speed.parse::<i64>().is_ok_and(|speed| speed > 0));
            let speed = speed.map_or("speed unknown".to_owned(), |speed| format!("{speed} Mbit/s"));
            format!(
                "{name} ({}, {speed}, MTU {})",
                of("operstate").unwrap_or_default(),
                of("mtu").unwrap_or_default()
            )
        })
        .collect();
    if each.is_empty() {
        return Finding::note(
            AREA,
            "interfaces",
            "none but loopback",
            "peers on other hosts cannot be reached",
        );
    }
    Finding::good(AREA, "interfaces", each.join(", "))
}
