//! How an engine is opened.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use ropeway_ascend::{Npu, NpuConfig};
use ropeway_core::wire::Secret;
use ropeway_core::{Error, ErrorKind, Incarnation, Limits, Result};
use ropeway_transport::{
    Calibration, Cma, Fence, Janitor, Loopback, OneSided, OneSidedConfig, Shm, Tcp, TcpConfig, Transport,
    TransportKind,
};

use crate::control::Control;
use crate::engine::Engine;
use crate::secret::{AuthMode, ClusterKey, Psk, random};
use crate::shared::{Parts, Shared};
use ropeway_transport::memory::fork::Origin;

type Transports = Vec<Arc<dyn Transport>>;

/// Describes an engine; see [`Engine::builder`].
#[derive(Clone, Default)]
#[must_use = "an engine is opened by `open`"]
pub struct Builder {
    limits: Limits,
    listen: Option<SocketAddr>,
    advertise: Option<SocketAddr>,
    data_port: u16,
    cluster: Option<ClusterKey>,
    insecure: bool,
    transports: Option<Vec<TransportKind>>,
    calibration: Option<Calibration>,
    npu: Option<NpuConfig>,
    added: Vec<Arc<dyn Transport>>,
}

impl Builder {
    /// The limits; the defaults suit one engine per NPU.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Where the control port listens; port 0 takes a free one. Without it the engine is reached from this process only,
    /// and can itself connect anywhere.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = Some(address);
        self
    }

    /// The address that the descriptor names instead of the one that is listened at (a pod's, behind 0.0.0.0). Port 0 means
    /// the port that was taken.
    pub fn advertise(mut self, address: SocketAddr) -> Self {
        self.advertise = Some(address);
        self
    }

    /// The port of the data connections, at the address of `listen`; a free one unless said. Peers hear of it in the
    /// handshake.
    pub fn data_port(mut self, port: u16) -> Self {
        self.data_port = port;
        self
    }

    /// Peers must hold this key; it replaces the secret in the descriptor.
    pub fn cluster_key(mut self, key: ClusterKey) -> Self {
        self.cluster = Some(key);
        self
    }

    /// Lets in whoever reaches the port. Warns when it opens.
    pub fn insecure(mut self) -> Self {
        self.insecure = true;
        self
    }

    /// The transports to offer and to use; all that this machine has unless said.
    pub fn transports(mut self, kinds: &[TransportKind]) -> Self {
        self.transports = Some(kinds.to_vec());
        self
    }

    /// Gives the engine an NPU: memory in HBM, events of compute streams, and the transports between devices. Opening CANN
    /// takes seconds when it is the first in the process.
    pub fn npu(mut self, config: NpuConfig) -> Self {
        self.npu = Some(config);
        self
    }

    /// Adds a transport of the caller's own, a simulated one for tests, say. It is tried after the built-in ones.
    pub fn transport(mut self, transport: Arc<dyn Transport>) -> Self {
        self.added.push(transport);
        self
    }

    /// Overrides what a few milliseconds of measurement at open would choose.
    pub fn calibration(mut self, calibration: Calibration) -> Self {
        self.calibration = Some(calibration);
        self
    }

    /// Opens the engine.
    ///
    /// # Errors
    /// `ApiMisuse` for settings that contradict each other, `Resource` when the address is taken, or threads, memory or
    /// descriptors are not to be had.
    pub fn open(self) -> Result<Engine> {
        self.limits.validate()?;
        if self.insecure && self.cluster.is_some() {
            return Err(misuse("`insecure` and `cluster_key` contradict each other; choose one"));
        }
        if self.advertise.is_some() && self.listen.is_none() {
            return Err(misuse("`advertise` needs `listen`"));
        }
        let incarnation = loop {
            if let Some(incarnation) = Incarnation::new(u64::from_le_bytes(random()?)) {
                break incarnation;
            }
        };
        let secret: [u8; 32] = random()?;
        let psk = match (&self.cluster, self.insecure) {
            (Some(key), _) => Psk::cluster(key),
            (None, true) => Psk::insecure(),
            (None, false) => Psk::descriptor(secret),
        };
        if psk.mode == AuthMode::Insecure {
            tracing::warn!(listen = ?self.listen, "insecure: whoever reaches the control port may use this engine");
        }
        let listener = self.listen.map(listen).transpose()?;
        let addresses = self.addresses(listener.as_ref())?;
        let calibration = self.calibration.unwrap_or_else(Calibration::of_this_machine);
        let calibration = match self.limits.copy_threads() {
            0 => calibration,
            threads => calibration.with_threads(threads),
        };
        let janitor = Janitor::start()?;
        let npu = self.npu.clone().map(|config| Npu::open(config, &self.limits, &janitor)).transpose()?;
        let (fence, transports) = self.transports_for(&calibration, &janitor, npu.as_ref())?;
        let (control, runtime) = Control::start()?;
        let shared = Shared::new(Parts {
            limits: self.limits,
            incarnation,
            origin: Origin::here()?,
            psk,
            control,
            janitor,
            fence,
            transports,
            npu,
        })?;
        shared.control.run(runtime, &shared, listener)?;
        Ok(Engine::new(shared, addresses, Secret::new(secret), self.cluster, calibration))
    }

    /// The transports to offer, best first, and the fence that the one-sided ones share.
    fn transports_for(
        &self,
        calibration: &Calibration,
        janitor: &Janitor,
        npu: Option<&Arc<Npu>>,
    ) -> Result<(Arc<Fence>, Transports)> {
        let wants = |kind| self.transports.as_ref().is_none_or(|kinds| kinds.contains(&kind));
        let same_host = self.listen.is_some() || wants(TransportKind::Shm) || wants(TransportKind::Cma);
        let onesided = OneSided::open(OneSidedConfig {
            limits: self.limits.clone(),
            copy_threads: calibration.threads().saturating_sub(1) as usize,
            calibration: *calibration,
            janitor: janitor.clone(),
            same_host,
        })?;
        let fence = Arc::clone(onesided.fence());
        let mut transports: Vec<Arc<dyn Transport>> = Vec::new();
        if wants(TransportKind::Loopback) {
            transports.push(Arc::new(Loopback::new(&onesided)));
        }
        if wants(TransportKind::Shm) {
            transports.push(Arc::new(Shm::new(&onesided)));
        }
        if wants(TransportKind::Cma) {
            transports.push(Arc::new(Cma::new(&onesided)));
        }
        if wants(TransportKind::Tcp) {
            transports.push(Arc::new(Tcp::new(TcpConfig {
                listen: self.listen.map(|control| SocketAddr::new(control.ip(), self.data_port)),
                advertise: self.advertise.map(|advertise| advertise.ip()),
                limits: self.limits.clone(),
                gate: Arc::clone(&fence) as _,
            })?));
        }
        if let Some(npu) = npu {
            transports.extend(self.npu_transports(npu)?);
        }
        transports.extend(self.added.iter().cloned());
        Ok((fence, transports))
    }

    /// All that the device has, but for hccl, which is used only when it is asked for.
    fn npu_transports(&self, npu: &Arc<Npu>) -> Result<Transports> {
        let kinds = self.transports.clone().unwrap_or_else(|| vec![TransportKind::Hixl, TransportKind::Ipc]);
        let asked = self.transports.is_some();
        let mut made: Transports = Vec::new();
        for kind in kinds.into_iter().filter(|kind| kind.moves_devices()) {
            match npu.transport(kind, &self.limits) {
                Ok(transport) => made.push(transport),
                Err(error) if asked => return Err(error),
                Err(error) => tracing::info!(transport = %kind, %error, "not to be had on this NPU"),
            }
        }
        Ok(made)
    }

    fn addresses(&self, listener: Option<&TcpListener>) -> Result<Vec<SocketAddr>> {
        let Some(listener) = listener else { return Ok(Vec::new()) };
        let mut address = listener.local_addr().map_err(|e| Error::os("open", "the control port", e))?;
        if let Some(advertise) = self.advertise {
            let port = if advertise.port() == 0 { address.port() } else { advertise.port() };
            address = SocketAddr::new(advertise.ip(), port);
        }
        if address.ip().is_unspecified() {
            return Err(misuse(format!(
                "{} is no address that a peer can reach; name one with `advertise`",
                address.ip()
            )));
        }
        Ok(vec![address])
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    let open = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    open().map_err(|e| Error::os("open", format!("listening at {address}"), e))
}

fn misuse(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::ApiMisuse, "open", text)
}
