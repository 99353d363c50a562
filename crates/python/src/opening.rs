//! How an engine is opened: Python's arguments as a builder.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use ropeway::{ClusterKey, Engine, Error, ErrorKind, Limits, NpuConfig, Result, TransportKind};

/// The arguments of `Engine(...)`, parsed as far as Python's types go.
pub(crate) struct Opening {
    pub(crate) listen: Option<String>,
    pub(crate) advertise: Option<String>,
    pub(crate) data_port: u16,
    pub(crate) cluster_key: Option<Vec<u8>>,
    pub(crate) cluster_key_file: Option<PathBuf>,
    pub(crate) insecure: bool,
    pub(crate) transports: Option<Vec<String>>,
    pub(crate) npu: Option<NpuConfig>,
    pub(crate) limits: Limits,
}

/// Opens the engine. Blocks, for seconds with an NPU.
pub(crate) fn open(opening: Opening) -> Result<Engine> {
    let mut builder = Engine::builder().limits(opening.limits).data_port(opening.data_port);
    if let Some(listen) = opening.listen {
        builder = builder.listen(address("listen", &listen)?);
    }
    if let Some(advertise) = opening.advertise {
        builder = builder.advertise(address("advertise", &advertise)?);
    }
    builder = match (opening.cluster_key, opening.cluster_key_file) {
        (Some(_), Some(_)) => return Err(misuse("cluster_key and cluster_key_file exclude each other")),
        (Some(key), None) => builder.cluster_key(ClusterKey::new(&key)?),
        (None, Some(path)) => builder.cluster_key(ClusterKey::from_file(path)?),
        (None, None) => builder,
    };
    if opening.insecure {
        builder = builder.insecure();
    }
    if let Some(names) = opening.transports {
        let kinds = names.iter().map(|name| transport_kind(name)).collect::<Result<Vec<_>>>()?;
        builder = builder.transports(&kinds);
    }
    if let Some(npu) = opening.npu {
        builder = builder.npu(npu);
    }
    builder.open()
}

/// The transport of this name.
pub(crate) fn transport_kind(name: &str) -> Result<TransportKind> {
    use TransportKind::{Cma, Hccl, Hixl, Ipc, Loopback, Shm, Tcp};
    let kinds = [Loopback, Shm, Cma, Hixl, Ipc, Hccl, Tcp];
    kinds.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
        let names: Vec<_> = kinds.iter().map(|kind| kind.name()).collect();
        misuse(format!("there is no transport {name:?}; there are {}", names.join(", ")))
    })
}

/// "host:port", where a name is looked up.
fn address(what: &str, text: &str) -> Result<SocketAddr> {
    let found = text.to_socket_addrs().ok().and_then(|mut found| found.next());
    found.ok_or_else(|| {
        misuse(format!("{what}={text:?} is no address; give \"host:port\", port 0 for a free one"))
    })
}

fn misuse(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::ApiMisuse, "open", text)
}
