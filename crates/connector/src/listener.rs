//! How a half's engine is reached, and the scheduler half's own: it has no memory, and shows the rank table to whoever
//! holds the secret that rides in a request. It offers no transport, since consumers come for control only.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use ropeway::{Builder, ClusterKey, Engine, Error, ErrorKind, NpuConfig, Result};

use crate::config::Config;
use crate::params::Owner;
use crate::table::{Instance, NOTE};

/// What both halves' engines have in common: address, secret, limits. A worker adds its transports and devices
/// ([`worker_builder`]).
///
/// # Errors
/// `ApiMisuse` for an address that no peer could use; what reading the key file gives.
pub fn builder(config: &Config, port: u16) -> Result<Builder> {
    let own = &config.own;
    let host = own.host.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    if host.is_unspecified() && own.advertise.is_none() {
        let text =
            format!("host is {host}, which no peer can connect to; set \"advertise\" to this pod's address");
        return Err(Error::new(ErrorKind::ApiMisuse, "listen", text));
    }
    let mut builder = Engine::builder().limits(own.limits()).listen(SocketAddr::new(host, port));
    if let Some(advertise) = own.advertise {
        builder = builder.advertise(advertise);
    }
    if own.insecure {
        builder = builder.insecure();
    }
    match &own.psk_file {
        Some(path) => Ok(builder.cluster_key(ClusterKey::from_file(path)?)),
        None => Ok(builder),
    }
}

/// The builder of worker `number`'s engine: its own port, and the transports that may be used.
///
/// # Errors
/// As [`builder`].
pub fn worker_builder(config: &Config, number: u16) -> Result<Builder> {
    let own = &config.own;
    let port = match own.worker_port {
        0 => 0,
        first => first.checked_add(number).ok_or_else(|| {
            let text = format!("worker_port {first} + rank {number} passes 65535; choose a lower one, or 0");
            Error::new(ErrorKind::ApiMisuse, "listen", text)
        })?,
    };
    let mut builder = builder(config, port)?;
    if let Some(advertise) = own.advertise {
        // A port that is told is the scheduler half's.
        builder = builder.advertise(SocketAddr::new(advertise.ip(), 0));
    }
    Ok(if own.transports.is_empty() { builder } else { builder.transports(&own.transports) })
}

/// How a worker opens its NPU, for [`Builder::npu`]: under the node's name and the pod's address of the configuration.
pub fn npu_config(config: &Config, device: u32) -> NpuConfig {
    let npu = NpuConfig::new(device);
    let npu = config.own.node.iter().fold(npu, NpuConfig::with_node);
    config.own.host.into_iter().filter(|host| !host.is_unspecified()).fold(npu, NpuConfig::with_address)
}

/// Where consumers ask who the workers are.
#[derive(Debug)]
pub struct Listener(Engine);

impl Listener {
    /// Listens for the scheduler half of a data-parallel rank.
    ///
    /// # Errors
    /// `Resource` when the port is taken, `ApiMisuse` when there is none of that number; as [`builder`].
    pub fn open(config: &Config, dp_rank: u32) -> Result<Self> {
        let port = config
            .scheduler_port(dp_rank)
            .map_err(|error| Error::new(ErrorKind::ApiMisuse, "listen", error.to_string()))?;
        builder(config, port)?.transports(&[]).open().map(Self)
    }

    /// Who it is, for [`Scheduler::set_owner`](crate::scheduler::Scheduler::set_owner).
    ///
    /// # Errors
    /// `Closed` when the engine has no incarnation any more.
    pub fn owner(&self) -> Result<Owner> {
        Owner::of(&self.0.descriptor())
            .ok_or_else(|| Error::new(ErrorKind::Closed, "listen", "the engine has no incarnation"))
    }

    /// Shows who the workers are; again when that changes.
    ///
    /// # Errors
    /// `ApiMisuse` for a table that is longer than a note may be.
    pub fn show(&self, instance: &Instance) -> Result<()> {
        self.0.show_note(NOTE, instance.encode())
    }

    /// Stops listening; waits up to `timeout` for peers to be told.
    ///
    /// # Errors
    /// `Forked` in a child process.
    pub fn close(&self, timeout: Duration) -> Result<()> {
        self.0.close(timeout).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::Environment;

    const WAIT: Duration = Duration::from_secs(60);

    fn config(port: u16, own: Value) -> Config {
        let value = json!({"kv_role": "kv_both", "kv_port": port.to_string(),
            "kv_connector_extra_config": {"ropeway": own}});
        Config::from_value(value, &Environment::default()).expect("it is sound")
    }

    fn shown(to: &Engine, listener: &Listener) -> Result<bytes::Bytes> {
        let descriptor = listener.owner()?.descriptor();
        let peer = to.connect_control(&descriptor, WAIT)?.wait()?;
        peer.note(NOTE, WAIT)?.wait()
    }

    #[test]
    fn a_rank_table_is_read_by_whoever_holds_the_secret() {
        let listener = Listener::open(&config(0, json!({})), 0).unwrap();
        let instance = Instance { about: json!({"tp": 2}), ranks: vec![] };
        listener.show(&instance).unwrap();
        let consumer = worker_builder(&config(0, json!({"transports": ["tcp"]})), 0).unwrap().open().unwrap();
        let read = shown(&consumer, &listener).unwrap();
        assert_eq!(Instance::decode(&read), Ok(instance));
        assert_ne!(listener.owner().unwrap().addresses[0].port(), 0);
        listener.close(WAIT).unwrap();
        assert!(shown(&consumer, &listener).is_err());
    }

    #[test]
    fn a_worker_without_a_transport_of_hosts_reads_the_table_all_the_same() {
        let listener = Listener::open(&config(0, json!({})), 0).unwrap();
        listener.show(&Instance { about: json!({}), ranks: vec![] }).unwrap();
        // As with `hixl` alone, whose transport there is only with an NPU.
        let consumer =
            worker_builder(&config(0, json!({"transports": ["hixl"]})), 0).unwrap().open().unwrap();
        assert!(Instance::decode(&shown(&consumer, &listener).unwrap()).is_ok());
    }

    #[test]
    fn a_port_that_is_taken_is_an_error_at_once() {
        let first = Listener::open(&config(0, json!({})), 0).unwrap();
        let port = first.owner().unwrap().addresses[0].port();
        let second = Listener::open(&config(port, json!({})), 0).unwrap_err();
        assert_eq!(second.kind(), ErrorKind::Resource, "{second}");
    }

    #[test]
    fn an_address_that_nobody_can_connect_to_is_refused_unless_another_is_advertised() {
        let error = Listener::open(&config(0, json!({"host": "0.0.0.0"})), 0).unwrap_err();
        assert!(error.to_string().contains("set \"advertise\""), "{error}");
        let own = json!({"host": "0.0.0.0", "advertise": "127.0.0.1"});
        let listener = Listener::open(&config(0, own), 0).unwrap();
        let address = listener.owner().unwrap().addresses[0];
        assert!(address.ip().is_loopback() && address.port() != 0, "{address}");
    }

    #[test]
    fn an_npu_is_opened_under_the_nodes_name_and_the_pods_address() {
        let npu = npu_config(&config(0, json!({"node": "rack3-host7", "host": "10.1.2.3"})), 4);
        assert_eq!((npu.device(), npu.node()), (4, Some("rack3-host7")));
        assert_eq!(npu.address(), Some("10.1.2.3".parse().unwrap()));
        let npu = npu_config(&config(0, json!({"host": "0.0.0.0", "advertise": "10.1.2.3"})), 0);
        assert_eq!((npu.node(), npu.address()), (None, None));
    }

    #[test]
    fn an_advertised_port_is_the_listeners_and_no_workers() {
        let config = config(0, json!({"advertise": "127.0.0.1:7", "transports": ["tcp"]}));
        let listener = Listener::open(&config, 0).unwrap();
        assert_eq!(listener.owner().unwrap().addresses[0].port(), 7);
        let worker = worker_builder(&config, 0).unwrap().open().unwrap();
        let address = Owner::of(&worker.descriptor()).unwrap().addresses[0];
        assert!(address.ip().is_loopback() && ![0, 7].contains(&address.port()), "{address}");
    }

    #[test]
    fn who_only_takes_blocks_listens_at_a_free_port_unless_one_is_said() {
        let consumer = |own: Value| {
            let value = json!({"kv_role": "kv_consumer", "kv_port": 14579,
                "kv_connector_extra_config": {"ropeway": own}});
            Config::from_value(value, &Environment::default()).expect("it is sound").scheduler_port(0)
        };
        assert_eq!(consumer(json!({})), Ok(0));
        assert_eq!(consumer(json!({"port": 20002})), Ok(20002));
    }

    #[test]
    fn ports_count_up_from_the_first_and_not_past_the_last() {
        assert_eq!(config(65535, json!({})).scheduler_port(0), Ok(65535));
        let error = Listener::open(&config(65535, json!({})), 1).unwrap_err();
        assert!(error.to_string().contains("passes 65535"), "{error}");
        let error = worker_builder(&config(0, json!({"worker_port": 65000})), 1000).err().unwrap();
        assert!(error.to_string().contains("passes 65535"), "{error}");
    }
}
