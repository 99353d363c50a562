//! CANN, NPUs, their memory and network.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use ropeway::Limits;
use ropeway_ascend::node::{Chip, Identity, Machine, nic_address};
use ropeway_ascend::{Cann, HbmMemory, Npu, NpuConfig};
use ropeway_transport::Janitor;

use super::{Finding, State};
use crate::output;

const AREA: &str = "ascend";
/// What one allocation is tried with.
const TRIAL_BYTES: u64 = 4 << 20;
/// Packages whose versions are told.
const PACKAGES: [&std::ffi::CStr; 5] = [c"runtime", c"hcomm", c"hixl", c"driver", c"firmware"];

/// What was found of Ascend.
pub(super) struct Ascend {
    pub(super) findings: Vec<Finding>,
    pub(super) simulated: bool,
}

pub(super) fn look(machine: &Machine, path: Option<&Path>) -> Ascend {
    let cann = match Cann::open(path) {
        Ok(cann) => cann,
        Err(error) => {
            let absent = Finding {
                state: State::Absent,
                ..Finding::note(
                    AREA,
                    "CANN",
                    error,
                    "NPU transports are left out, everything else works; with NPUs: install CANN 8.5 or later, source its \
                     set_env.sh, or name its folder in ROPEWAY_CANN_PATH",
                )
            };
            return Ascend { findings: vec![absent], simulated: false };
        }
    };
    let mut findings = libraries(cann);
    findings.extend(parts(cann));
    findings.push(identity(machine));
    findings.push(patience(machine));
    findings.push(ports());
    findings.extend(devices(cann, path, machine));
    Ascend { findings, simulated: cann.sys().is_simulated() }
}

fn libraries(cann: &'static Cann) -> Vec<Finding> {
    // Opens the rest, so that the list is whole.
    let parts = [cann.sys().hccl().is_ok(), cann.sys().hixl_cs().is_ok(), cann.sys().shim().is_ok()];
    let kind = if cann.sys().is_simulated() { "SIMULATED, " } else { "" };
    let found = format!(
        "{kind}{} ({} of 3 parts beside AscendCL)",
        cann.sys().root().display(),
        parts.iter().filter(|part| **part).count()
    );
    let mut findings = vec![Finding::good(AREA, "CANN", found)];
    for (name, file) in cann.sys().libraries() {
        findings.push(Finding::good(AREA, name, file.display()));
    }
    let versions: Vec<String> = PACKAGES
        .iter()
        .filter_map(|package| Some(format!("{} {}", package.to_string_lossy(), cann.version(package)?)))
        .collect();
    if versions.is_empty() {
        findings.push(Finding::note(
            AREA,
            "versions",
            "not told",
            "peers must run the same HIXL: compare share/info/*/version.info of the nodes by hand",
        ));
    } else {
        findings.push(Finding::good(AREA, "versions", versions.join(", ")));
    }
    findings
}

/// The parts that only some releases have, and what is left out without them.
fn parts(cann: &'static Cann) -> Vec<Finding> {
    let mut findings = Vec::new();
    match cann.sys().shim() {
        Ok(_) => findings.push(Finding::good(AREA, "hixl (C++ class)", "through the shim")),
        Err(why) => findings.push(Finding::wrong(
            AREA,
            "hixl (C++ class)",
            why,
            "there is no hixl transport: install the HIXL package of CANN 8.5 or later, and build with a C++ compiler",
        )),
    }
    match cann.sys().hixl_cs() {
        Ok(_) => findings.push(Finding::good(AREA, "hixl (C interface)", "there, used when asked for")),
        Err(why) => findings.push(Finding::note(
            AREA,
            "hixl (C interface)",
            why,
            "only needed when asked for; CANN 9.1 has it",
        )),
    }
    match cann.sys().hccl() {
        Ok(_) => findings.push(Finding::good(AREA, "hccl", "there, used when asked for")),
        Err(why) => findings.push(Finding::note(AREA, "hccl", why, "there is no hccl transport")),
    }
    let acl = cann.acl();
    for (name, there, without) in [
        ("ipc", acl.ipc.is_some(), "there is no ipc transport"),
        (
            "peer_access",
            acl.peer_access.is_some(),
            "ipc between two devices rests on what the board allows by itself; its probe transfer tells",
        ),
        ("vmm", acl.vmm.is_some(), "virtual memory (expandable segments) is not told from other memory"),
        ("events", acl.events.is_some(), "transfers cannot wait for a compute stream"),
        (
            "attributes",
            acl.attributes.is_some(),
            "super-pods are not known: NPUs of other hosts are reached over RoCE only",
        ),
    ] {
        if !there {
            findings.push(Finding::note(AREA, format!("AscendCL: {name}"), "not in this release", without));
        }
    }
    findings
}

fn identity(machine: &Machine) -> Finding {
    match Identity::find(None, None, machine) {
        Ok(Identity { node, warning: Some(warning), .. }) => Finding::note(AREA, "node", node, warning),
        Ok(identity) => Finding::good(AREA, "node", format!("{} ({:?})", identity.node, identity.source)),
        Err(error) => {
            Finding::wrong(AREA, "node", error, "set ROPEWAY_NODE, the same in all pods of one node")
        }
    }
}

/// How long the RDMA hardware tries by itself, against how long the engine waits for it.
fn patience(machine: &Machine) -> Finding {
    let number = |name: &str, default: u32| {
        machine.variable(name).and_then(|value| value.parse::<u32>().ok()).unwrap_or(default)
    };
    let (exponent, count) = (number("HCCL_RDMA_TIMEOUT", 20), number("HCCL_RDMA_RETRY_CNT", 7));
    let window = 4.096e-6 * f64::from(exponent).exp2() * f64::from(count);
    let hold = NpuConfig::new(0).hold().as_secs_f64();
    let found = format!(
        "{window:.1} s (HCCL_RDMA_TIMEOUT {exponent}, HCCL_RDMA_RETRY_CNT {count}); memory is held for {hold:.0} s"
    );
    // The defaults come to 30.06 s.
    if window > hold + 1.0 {
        return Finding::wrong(
            AREA,
            "RDMA's own retries",
            found,
            "memory of a broken link could be reused while the hardware still tries: lower both variables, or raise \
             NpuConfig::with_hold above the window",
        );
    }
    Finding::good(AREA, "RDMA's own retries", found)
}

fn ports() -> Finding {
    let range = NpuConfig::new(0).ports();
    let free = range.clone().filter(|&port| TcpListener::bind(("0.0.0.0", port)).is_ok()).count();
    let found = format!("{free} of {} free ({} to {})", range.clone().count(), range.start(), range.end());
    if free == 0 {
        return Finding::wrong(AREA, "HIXL's ports", found, "give another range with NpuConfig::with_ports");
    }
    Finding::good(AREA, "HIXL's ports", found)
}

fn devices(cann: &'static Cann, path: Option<&Path>, machine: &Machine) -> Vec<Finding> {
    let soc = cann.soc_name();
    let count = match cann.device_count() {
        Ok(0) => Err("no device".to_owned()),
        Ok(count) => Ok(count),
        Err(error) => Err(error.to_string()),
    };
    let count = match count {
        Ok(count) => count,
        Err(why) => {
            return vec![Finding::wrong(
                AREA,
                "devices",
                why,
                "give the container /dev/davinci*, /dev/davinci_manager, /dev/devmm_svm and /dev/hisi_hdc, and look at \
                 ASCEND_RT_VISIBLE_DEVICES and `npu-smi info`",
            )];
        }
    };
    let mut findings = vec![match cann.chip() {
        Chip::Other => Finding::note(
            AREA,
            "devices",
            format!("{count} × {soc:?}"),
            "the engine does not know this chip: HCCS is not taken, and no link is known to be fast",
        ),
        chip => Finding::good(AREA, "devices", format!("{count} × {soc} ({chip})")),
    }];
    let janitor = match Janitor::start() {
        Ok(janitor) => janitor,
        Err(error) => {
            findings.push(Finding::wrong(
                AREA,
                "threads",
                error,
                "raise the limit of threads (ulimit -u, pids.max)",
            ));
            return findings;
        }
    };
    for id in 0..count {
        let mut config = NpuConfig::new(id);
        if let Some(path) = path {
            config = config.with_cann_path(path);
        }
        match Npu::open(config, &Limits::default(), &janitor) {
            Ok(npu) => findings.extend(device(&npu, machine)),
            Err(error) => findings.push(Finding::wrong(
                AREA,
                format!("device {id}"),
                error,
                "see `npu-smi info`; another process may hold the device exclusively, or the driver is too old",
            )),
        }
    }
    findings
}

fn device(npu: &Arc<Npu>, machine: &Machine) -> Vec<Finding> {
    let ids = npu.device().ids();
    let name = format!("device {}", ids.user);
    let physical = ids.physical.map_or("unknown".to_owned(), |id| id.to_string());
    let pod = ids.super_pod.map_or("none".to_owned(), |pod| format!("{} ({})", pod.id, pod.device));
    let memory = ids.memory.map_or("unknown".to_owned(), output::bytes);
    let found = format!("physical id {physical}, super-pod {pod}, HBM {memory}");
    let mut findings = vec![match npu.device().is_well() {
        Some(false) => {
            Finding::wrong(AREA, &name, found, "the driver calls it abnormal: see `npu-smi info -t health`")
        }
        _ => Finding::good(AREA, &name, found),
    }];
    match ids.physical.map(|id| nic_address(id, npu.config().hccn_conf(), machine)) {
        Some(Ok(address)) => findings.push(Finding::good(AREA, format!("{name}, NIC"), address)),
        Some(Err(error)) => findings.push(Finding::note(
            AREA,
            format!("{name}, NIC"),
            error,
            "NPUs of other hosts are out of reach (RoCE); within the island HCCS works without",
        )),
        None => findings.push(Finding::note(
            AREA,
            format!("{name}, NIC"),
            "the release does not tell the physical id",
            "hccn.conf names NPUs by it: RoCE is left out",
        )),
    }
    findings.push(trial(npu, &format!("{name}, memory")));
    findings
}

/// What kind of memory an allocation gives, and which links can use it.
fn trial(npu: &Arc<Npu>, name: &str) -> Finding {
    let memory = match npu.alloc(TRIAL_BYTES) {
        Ok(memory) => memory,
        Err(error) => {
            return Finding::wrong(
                AREA,
                name,
                error,
                "free memory of the device, or reserve huge pages for it",
            );
        }
    };
    let Some(hbm) = HbmMemory::of(&memory) else {
        return Finding::wrong(
            AREA,
            name,
            "not memory of the device",
            "this is a fault of the engine: report it",
        );
    };
    let found = hbm.found();
    let page = found.page.map_or("of unknown size".to_owned(), output::block);
    let text = format!("{:?}, pages {page}", found.allocation);
    match (hbm.check_hccs(), hbm.check_ipc()) {
        (Ok(()), Ok(_)) => Finding::good(AREA, name, format!("{text}: HCCS, RoCE and ipc can use it")),
        (Err(error), _) => Finding::wrong(AREA, name, text, error.to_string()),
        (_, Err(error)) => Finding::note(AREA, name, text, error.to_string()),
    }
}
