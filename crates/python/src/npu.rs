//! How an NPU is opened.

use std::net::IpAddr;
use std::path::PathBuf;

use pyo3::prelude::*;
use ropeway::NpuConfig;

use crate::fault::{Result, misuse};
use crate::seconds::duration;

/// An NPU to open an engine with. `device` is the index after `ASCEND_RT_VISIBLE_DEVICES`, as torch_npu counts.
#[pyclass(frozen, module = "ropeway")]
pub(crate) struct Npu(pub(crate) NpuConfig);

#[pymethods]
impl Npu {
    #[new]
    #[pyo3(signature = (
        device, *, node = None, address = None, cann_path = None, hccn_conf = None, ports = None, device_port = None,
        c_api = false, connect_timeout = None, transfer_timeout = None, hold = None
    ))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments, which Python names")]
    fn new(
        device: u32,
        node: Option<String>,
        address: Option<&str>,
        cann_path: Option<PathBuf>,
        hccn_conf: Option<PathBuf>,
        ports: Option<(u16, u16)>,
        device_port: Option<u16>,
        c_api: bool,
        connect_timeout: Option<f64>,
        transfer_timeout: Option<f64>,
        hold: Option<f64>,
    ) -> Result<Self> {
        let mut config = NpuConfig::new(device).with_c_api(c_api);
        if let Some(node) = node {
            config = config.with_node(node);
        }
        if let Some(address) = address {
            let parsed: IpAddr = address.parse().map_err(|_| {
                misuse("open", format!("{address:?} is no IP address; name one of this host"))
            })?;
            config = config.with_address(parsed);
        }
        if let Some(path) = cann_path {
            config = config.with_cann_path(path);
        }
        if let Some(path) = hccn_conf {
            config = config.with_hccn_conf(path);
        }
        if let Some((first, last)) = ports {
            config = config.with_ports(first..=last);
        }
        if let Some(port) = device_port {
            config = config.with_device_port(port);
        }
        if let Some(timeout) = connect_timeout {
            config = config.with_connect_timeout(duration("connect_timeout", timeout)?);
        }
        if let Some(timeout) = transfer_timeout {
            config = config.with_transfer_timeout(duration("transfer_timeout", timeout)?);
        }
        if let Some(hold) = hold {
            config = config.with_hold(duration("hold", hold)?);
        }
        Ok(Self(config))
    }

    /// The device.
    #[getter]
    fn device(&self) -> u32 {
        self.0.device()
    }
}
