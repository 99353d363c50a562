//! How an NPU is opened.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ropeway_core::{Error, ErrorKind, Result};

use crate::node::Machine;

/// How an NPU is opened and what its links use. The defaults suit one engine per NPU on a host with CANN.
///
/// ```
/// use ropeway_ascend::NpuConfig;
/// let config = NpuConfig::new(0).with_node("rack3-host7");
/// assert_eq!(config.device(), 0);
/// ```
#[derive(Clone, Debug)]
pub struct NpuConfig {
    device: u32,
    node: Option<String>,
    address: Option<IpAddr>,
    cann_path: Option<PathBuf>,
    hccn_conf: Option<PathBuf>,
    ports: RangeInclusive<u16>,
    device_port: Option<u16>,
    c_api: bool,
    traffic_class: Option<u8>,
    service_level: Option<u8>,
    check_process: bool,
    connect_timeout: Duration,
    transfer_timeout: Duration,
    hold: Duration,
    slow_threads: usize,
    machine: Machine,
}

impl NpuConfig {
    /// The device with this user id: the index after `ASCEND_RT_VISIBLE_DEVICES`, what `aclrtSetDevice` takes.
    pub fn new(device: u32) -> Self {
        Self {
            device,
            node: None,
            address: None,
            cann_path: None,
            hccn_conf: None,
            ports: 17_400..=17_911,
            device_port: None,
            c_api: false,
            traffic_class: None,
            service_level: None,
            check_process: true,
            connect_timeout: Duration::from_secs(20),
            transfer_timeout: Duration::from_secs(60),
            hold: Duration::from_secs(30),
            slow_threads: 8,
            machine: Machine::here(),
        }
    }

    /// The device.
    pub fn device(&self) -> u32 {
        self.device
    }

    /// Names the node. All pods of one node must give the same name, and no two nodes: NPUs of one node reach each other
    /// over HCCS although their pods' addresses differ. Otherwise it is taken from the environment or the kernel.
    #[must_use]
    pub fn with_node(mut self, node: impl Into<String>) -> Self {
        self.node = Some(node.into());
        self
    }

    /// The node's name, if it was given.
    pub fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    /// The host's address under which peers reach this engine's HIXL. Otherwise the one that the route outside has.
    #[must_use]
    pub fn with_address(mut self, address: IpAddr) -> Self {
        self.address = Some(address);
        self
    }

    /// The host's address, if it was given.
    pub fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// The folder of the CANN to use. Otherwise that of `ROPEWAY_CANN_PATH`, `ASCEND_HOME_PATH`, `ASCEND_TOOLKIT_HOME`,
    /// `/usr/local/Ascend`, or the loader's path.
    #[must_use]
    pub fn with_cann_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.cann_path = Some(path.into());
        self
    }

    /// CANN's folder, if it was given.
    pub fn cann_path(&self) -> Option<&Path> {
        self.cann_path.as_deref()
    }

    /// The file with the NPUs' network addresses. Otherwise `/etc/hccn.conf`.
    #[must_use]
    pub fn with_hccn_conf(mut self, path: impl Into<PathBuf>) -> Self {
        self.hccn_conf = Some(path.into());
        self
    }

    /// The file with the NPUs' network addresses, if it was given.
    pub fn hccn_conf(&self) -> Option<&Path> {
        self.hccn_conf.as_deref()
    }

    /// Ports of the host that HIXL may listen on; the first free one is taken and published. 17400 to 17911: below the
    /// ports that Linux and Kubernetes give out by themselves, and apart from the 20000 to 27999 of vllm-ascend's own
    /// connectors and from those of HCCL and torch.
    #[must_use]
    pub fn with_ports(mut self, ports: RangeInclusive<u16>) -> Self {
        self.ports = ports;
        self
    }

    /// Ports of the host that HIXL may listen on.
    pub fn ports(&self) -> RangeInclusive<u16> {
        self.ports.clone()
    }

    /// The port on the NPU's own network interface. Otherwise one is derived from the physical id, so that engines that
    /// share a NPU's network do not clash; HIXL's own default, 16666, is the same for all.
    #[must_use]
    pub fn with_device_port(mut self, port: u16) -> Self {
        self.device_port = Some(port);
        self
    }

    /// The port on the NPU's own network interface, if it was given.
    pub fn device_port(&self) -> Option<u16> {
        self.device_port
    }

    /// Uses HIXL's C interface (CANN 9.1 and later) in the place of its C++ class. Off: the class is stable since 8.5 and
    /// serves every kind of link.
    #[must_use]
    pub fn with_c_api(mut self, on: bool) -> Self {
        self.c_api = on;
        self
    }

    /// Whether HIXL's C interface is used.
    pub fn c_api(&self) -> bool {
        self.c_api
    }

    /// HIXL's traffic class on RoCE, a multiple of 4. Otherwise that of `HCCL_RDMA_TC`, else the library's 132.
    #[must_use]
    pub fn with_traffic_class(mut self, class: u8) -> Self {
        self.traffic_class = Some(class);
        self
    }

    /// HIXL's traffic class on RoCE, if it was given.
    pub fn traffic_class(&self) -> Option<u8> {
        self.traffic_class
    }

    /// HIXL's service level on RoCE, 0 to 7. Otherwise that of `HCCL_RDMA_SL`, else the library's 4.
    #[must_use]
    pub fn with_service_level(mut self, level: u8) -> Self {
        self.service_level = Some(level);
        self
    }

    /// HIXL's service level on RoCE, if it was given.
    pub fn service_level(&self) -> Option<u8> {
        self.service_level
    }

    /// Whether memory that ipc lends opens for the peer's process only. On. Off, it opens for whoever has its key: for
    /// containers between which the runtime cannot tell processes apart.
    #[must_use]
    pub fn with_check_process(mut self, on: bool) -> Self {
        self.check_process = on;
        self
    }

    /// Whether memory that ipc lends opens for the peer's process only.
    pub fn check_process(&self) -> bool {
        self.check_process
    }

    /// How long a connect may take. 20 s: what the libraries themselves take to find out that nobody answers.
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long a connect may take.
    pub fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    /// How long a matched send and receive of hccl may take before its communicator is given up. 60 s: longer than the
    /// hardware's own retries (about 30 s with the defaults of HCCL_RDMA_TIMEOUT and HCCL_RDMA_RETRY_CNT), so that the
    /// hardware gives up first. On the other transports `Limits::abandon_after` decides.
    #[must_use]
    pub fn with_transfer_timeout(mut self, timeout: Duration) -> Self {
        self.transfer_timeout = timeout;
        self
    }

    /// How long a matched send and receive of hccl may take.
    pub fn transfer_timeout(&self) -> Duration {
        self.transfer_timeout
    }

    /// How long memory is held after a link was destroyed with transfers in flight. 30 s: one retry window of the RDMA
    /// hardware. What destroying a link does to such transfers is not known until it was tried on hardware.
    #[must_use]
    pub fn with_hold(mut self, hold: Duration) -> Self {
        self.hold = hold;
        self
    }

    /// How long memory is held after a link was destroyed with transfers in flight.
    pub fn hold(&self) -> Duration {
        self.hold
    }

    /// Threads for connects and destroys, which are started on demand. 8: that many dead peers at a time can make a
    /// connect wait without holding up the next one.
    #[must_use]
    pub fn with_slow_threads(mut self, threads: usize) -> Self {
        self.slow_threads = threads;
        self
    }

    /// Threads for connects and destroys.
    pub fn slow_threads(&self) -> usize {
        self.slow_threads
    }

    /// Reads facts about the node from elsewhere than this machine: for tests.
    #[must_use]
    pub fn with_machine(mut self, machine: Machine) -> Self {
        self.machine = machine;
        self
    }

    /// Where facts about the node are read from.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// `ApiMisuse`, naming the setting, its value and the range.
    pub fn validate(&self) -> Result<()> {
        let wrong = |message: String| Err(Error::new(ErrorKind::ApiMisuse, "open NPU", message));
        if self.ports.is_empty() || *self.ports.start() == 0 {
            return wrong(format!(
                "ports {:?}: give a range that is not empty and does not begin at 0",
                self.ports
            ));
        }
        if self.device_port == Some(0) {
            return wrong("device_port 0: HIXL takes it for no port at all; give 1 to 65535".to_owned());
        }
        if self.connect_timeout.as_millis() == 0 || self.transfer_timeout.as_millis() == 0 {
            return wrong("a timeout below 1 ms breaks HIXL's links; give 1 ms or more".to_owned());
        }
        if let Some(class) = self.traffic_class.filter(|class| class % 4 != 0) {
            return wrong(format!("traffic_class {class}: give a multiple of 4"));
        }
        if let Some(level) = self.service_level.filter(|level| *level > 7) {
            return wrong(format!("service_level {level}: give 0 to 7"));
        }
        if !(1..=256).contains(&self.slow_threads) {
            return wrong(format!("slow_threads {}: give 1 to 256", self.slow_threads));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_break_links_are_refused_by_name() {
        let wrong = [
            ("ports", NpuConfig::new(0).with_ports(RangeInclusive::new(2, 1))),
            ("ports", NpuConfig::new(0).with_ports(0..=9)),
            ("device_port", NpuConfig::new(0).with_device_port(0)),
            ("timeout", NpuConfig::new(0).with_connect_timeout(Duration::ZERO)),
            ("timeout", NpuConfig::new(0).with_transfer_timeout(Duration::from_micros(999))),
            ("traffic_class", NpuConfig::new(0).with_traffic_class(130)),
            ("service_level", NpuConfig::new(0).with_service_level(8)),
            ("slow_threads", NpuConfig::new(0).with_slow_threads(0)),
        ];
        for (name, config) in wrong {
            let error = config.validate().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ApiMisuse);
            assert!(error.message().contains(name), "{error}");
        }
        NpuConfig::new(0).validate().unwrap();
    }
}
