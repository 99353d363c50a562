//! What an engine or a communicator stands on: the context of the thread that made it, and its device.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use crate::acl::host;
use crate::config::Timing;
use crate::context::{self, Context};
use crate::dma::{Backing, Quiesce};
use crate::fault::{Hit, Site};
use crate::hbm::Hbm;
use crate::runtime::{Runtime, runtime};
use crate::topology::{Chip, DeviceKey, Topology};

/// Pages that HCCS asks for.
pub(crate) const HUGE_PAGE: u64 = 2 << 20;

/// A context and its device.
#[derive(Clone)]
pub(crate) struct Anchor {
    context: Arc<Context>,
    runtime: &'static Runtime,
}

/// A port on an NPU's side: one engine's, in whatever process, until it is dropped.
pub(crate) struct PortClaim {
    _file: File,
}

impl Anchor {
    /// That of the calling thread, if it has a context on a device that works.
    pub(crate) fn of_thread() -> Option<Self> {
        let (context, runtime) = context::usable("link").ok()?;
        Some(Self { context, runtime })
    }

    /// Whether the calling thread has this context, and its device works.
    pub(crate) fn is_current(&self) -> bool {
        context::usable("link").is_ok_and(|(context, _)| context.handle == self.context.handle)
    }

    /// This process.
    pub(crate) fn process(&self) -> i32 {
        self.runtime.me.pid
    }

    /// The device.
    pub(crate) fn device(&self) -> DeviceKey {
        self.context.key
    }

    /// Its chip.
    pub(crate) fn chip(&self) -> Chip {
        self.runtime.chip()
    }

    /// The super-pod of the node.
    pub(crate) fn super_pod(&self) -> u32 {
        self.runtime.node().super_pod
    }

    /// Whether the device works, whatever thread asks.
    pub(crate) fn works(&self) -> bool {
        context::lost(self.runtime, self.device(), "link").is_ok()
    }

    /// Device memory.
    pub(crate) fn hbm(&self) -> &'static Hbm {
        &self.runtime.hbm
    }

    /// The machines.
    pub(crate) fn machines(&self) -> &'static Topology {
        &self.runtime.topology
    }

    /// The release that is played: major and minor.
    pub(crate) fn release(&self) -> (u32, u32) {
        release(self.runtime)
    }

    /// The address of the device's NIC, as `hccn.conf` has it.
    pub(crate) fn nic(&self) -> Option<String> {
        let (machines, node) = (&self.runtime.topology, self.runtime.node());
        let etc = node.etc.clone().unwrap_or_default();
        // A topology given in place has no folder: it speaks for the file.
        let text = if machines.root.as_os_str().is_empty() && etc.is_relative() {
            node.hccn_conf()
        } else {
            let file = machines.root.join(etc).join("hccn.conf");
            let text = std::fs::read_to_string(&file);
            text.inspect_err(|error| tracing::warn!(%error, file = %file.display(), "no NIC addresses"))
                .ok()?
        };
        let id = self.device().physical;
        let named = |kind: &str| {
            let key = format!("{kind}_{id}=");
            text.lines().find_map(|line| line.trim().strip_prefix(&key)).map(|nic| nic.trim().to_owned())
        };
        named("address").or_else(|| named("IPv6address"))
    }

    /// Takes a port of the NPU's; nothing when somebody has it.
    pub(crate) fn claim_port(&self, port: u16) -> Option<PortClaim> {
        let DeviceKey { server, physical } = self.device();
        let path = self.runtime.hbm.folder(server).ok()?.path().join(format!("dev{physical}.port{port}"));
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).ok()?;
        // SAFETY: a plain call on an open descriptor.
        let taken = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0;
        taken.then_some(PortClaim { _file: file })
    }

    /// What backs a range of device memory that is alive here, and its smallest page.
    pub(crate) fn device_backing(&self, start: u64, length: u64) -> Option<(Backing, u64)> {
        let hbm = &self.runtime.hbm;
        let pieces = hbm.pieces(start, length).ok()?;
        let (mut page, mut at) = (u64::MAX, start);
        for piece in &pieces {
            page = page.min(hbm.range(at)?.page.bytes());
            at += piece.len;
        }
        Some((Backing::Device(pieces), page))
    }

    /// What backs host memory of this process. On an A2 or A3 only memory that is pinned or registered can be had.
    pub(crate) fn host_backing(&self, start: u64, length: u64) -> Option<Backing> {
        let hbm = &self.runtime.hbm;
        let device = hbm.is_device_address(start) || hbm.is_device_address(start + (length - 1));
        let pinned = self.chip() == Chip::A950 || host::is_pinned(start, length);
        (!device && pinned).then_some(Backing::Host(self.runtime.me.pid))
    }

    /// Where a fault would strike.
    pub(crate) fn site<'a>(&self, op: &'a str, remote: Option<&'a str>) -> Site<'a> {
        Site { op, device: Some(self.device().physical), remote }
    }
}

impl std::fmt::Debug for Anchor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Anchor").field(&self.context.key).finish()
    }
}

fn release(runtime: &Runtime) -> (u32, u32) {
    let mut parts = runtime.topology.release.split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// The release that is played; nothing without a topology.
pub(crate) fn played_release() -> Option<(u32, u32)> {
    runtime().ok().map(release)
}

/// Whether a fault strikes here and now.
pub(crate) fn fault(name: &str, site: Site<'_>) -> Option<Hit> {
    runtime().ok()?.faults.hit(name, site)
}

/// What taking a link down does to what is under way on it.
pub(crate) fn quiesce(site: Site<'_>) -> Quiesce {
    let hit = runtime().ok().and_then(|runtime| runtime.faults.active("destroy_quiesces", site));
    match hit.as_ref().and_then(|hit| hit.get("mode")) {
        Some("late") => Quiesce::Late(hit.as_ref().map_or_else(Default::default, |hit| hit.ms(100))),
        Some("no") => Quiesce::No,
        _ => Quiesce::Yes,
    }
}

/// Whether completion times follow the link model.
pub(crate) fn is_timed() -> bool {
    runtime().is_ok_and(|runtime| runtime.config.timing == Timing::Model)
}

/// Whether bytes are moved at all; if not, posting costs what checking costs.
pub(crate) fn moves_data() -> bool {
    runtime().is_ok_and(|runtime| runtime.config.moves_data)
}

/// Whether there is a fault script.
pub(crate) fn has_faults() -> bool {
    runtime().is_ok_and(|runtime| !runtime.faults.is_empty())
}
