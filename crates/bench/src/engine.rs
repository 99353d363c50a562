//! Every call of the engine is here: how the benchmark opens it, publishes a pool, leases, connects and moves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ropeway::{
    BlockId, Cache, ClusterKey, Descriptor, Engine, Grant, Host, Lease, LeaseOptions, Limits, Peer, Plan,
    RawCopy, Region, Result, Rights, Route, Strided, Submit, Token, TransportKind,
};
use ropeway_ascend::{Cann, NpuConfig};

use crate::Failure;
use crate::cli::{self, Auth, Op, Transport};
use crate::control::Memory;
use crate::pattern::{self, Side};
use crate::pool::Pool;
use crate::reference::Desc;
use crate::work::{Copies, Group, Request};

/// The name under which both sides publish their cache.
const CACHE: &str = "kv";
/// For what answers in microseconds on a machine that works.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes that go between a pool and an NPU's memory at a time.
const STEP: usize = 4 << 20;
/// For a transfer: the slowest that is asked for takes seconds.
const TRANSFER_PATIENCE: Duration = Duration::from_secs(300);

/// Opens an engine. Without an address only this process reaches it.
pub(crate) fn open(options: &cli::Engine, listen: Option<SocketAddr>, auth: &Auth) -> Result<Engine> {
    let limits = Limits::default().with_copy_threads(options.copy_threads).with_streams(options.streams);
    let mut builder = Engine::builder().limits(limits);
    if let Some(address) = listen {
        builder = builder.listen(address);
    }
    if let Some(file) = &auth.key_file {
        builder = builder.cluster_key(ClusterKey::from_file(file)?);
    }
    if auth.insecure {
        builder = builder.insecure();
    }
    if let Some(device) = options.device() {
        let mut config = NpuConfig::new(device).with_c_api(options.npu.c_api);
        if let Some(cann) = &options.npu.cann {
            config = config.with_cann_path(cann);
        }
        builder = builder.npu(config);
    }
    match options.transport {
        Transport::Auto => builder,
        Transport::Loopback => builder.transports(&[TransportKind::Loopback]),
        Transport::Shm => builder.transports(&[TransportKind::Shm]),
        Transport::Cma => builder.transports(&[TransportKind::Cma]),
        Transport::Tcp => builder.transports(&[TransportKind::Tcp]),
        Transport::Hixl => builder.transports(&[TransportKind::Hixl]),
        Transport::Ipc => builder.transports(&[TransportKind::Ipc]),
        Transport::Hccl => builder.transports(&[TransportKind::Hccl]),
    }
    .open()
}

/// Whether the NPUs are simulated; false where none is used.
pub(crate) fn is_simulated(options: &cli::Engine) -> Result<bool> {
    match options.device() {
        Some(_) => Ok(Cann::open(options.npu.cann.as_deref())?.sys().is_simulated()),
        None => Ok(false),
    }
}

/// A pool that the engine knows and peers can find.
pub(crate) struct Published {
    region: Region,
    cache: Cache,
    /// The region is memory of an NPU's runtime: the pool holds what is to be there, or was.
    mirrored: bool,
}

impl Published {
    pub(crate) fn new(engine: &Engine, pool: &Arc<Pool>, memory: Memory, groups: &[Group]) -> Result<Self> {
        let region = register(engine, pool, memory)?;
        let mirrored = matches!(memory, Memory::Device | Memory::Pinned);
        if groups.is_empty() {
            let cache = engine.raw_cache(CACHE, &region)?;
            return Ok(Self { region, cache, mirrored });
        }
        let mut builder = engine.cache(CACHE);
        for group in groups {
            builder = builder.group(group.name, 1);
            for part in &group.parts {
                let strided = Strided {
                    offset: part.offset,
                    stride: part.block_bytes,
                    block_bytes: part.block_bytes,
                    blocks: part.blocks,
                };
                builder = builder.part(part.name.as_str(), &region, strided);
            }
        }
        Ok(Self { region, cache: builder.publish()?, mirrored })
    }

    /// Fills the pool as a source.
    pub(crate) fn fill(&self, pool: &Pool, seed: u64) -> Result<()> {
        pattern::fill(pool, seed);
        self.push(pool)
    }

    /// Makes the pool a destination that nobody has written to.
    pub(crate) fn poison(&self, pool: &Pool) -> Result<()> {
        pattern::poison(pool);
        self.push(pool)
    }

    /// Compares every byte of the pool as a destination.
    pub(crate) fn verify(&self, pool: &Pool, seed: u64, list: &[Desc], side: Side) -> Result<(), Failure> {
        self.pull(pool)?;
        pattern::verify(pool, seed, list, side).map_err(|wrong| wrong.to_string().into())
    }

    /// Copies the pool to where it is published, when that is memory of an NPU's runtime.
    fn push(&self, pool: &Pool) -> Result<()> {
        if !self.mirrored {
            return Ok(());
        }
        let mut bytes = vec![0; STEP];
        for at in (0..pool.len()).step_by(STEP) {
            let step = &mut bytes[..STEP.min(pool.len() - at)];
            for (i, word) in step.chunks_exact_mut(8).enumerate() {
                word.copy_from_slice(&pool.word(at + i * 8).to_le_bytes());
            }
            self.region.write(at as u64, step)?;
        }
        Ok(())
    }

    /// Copies what is published into the pool, when it is memory of an NPU's runtime.
    fn pull(&self, pool: &Pool) -> Result<()> {
        if !self.mirrored {
            return Ok(());
        }
        let mut bytes = vec![0; STEP];
        for at in (0..pool.len()).step_by(STEP) {
            let step = &mut bytes[..STEP.min(pool.len() - at)];
            self.region.read(at as u64, step)?;
            let words =
                step.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")));
            pool.write_words(at, words);
        }
        Ok(())
    }

    /// Leases blocks, one list per group; a raw cache is one block.
    pub(crate) fn lease(&self, ids: &[Vec<u32>], op: Op) -> Result<Lease> {
        let rights = match op {
            Op::Read => Rights::Read,
            Op::Write => Rights::Write,
        };
        let ids = blocks(ids);
        self.cache.lease(&slices(&ids), rights, LeaseOptions::default())
    }

    /// Leases the blocks of one request.
    pub(crate) fn lease_request(&self, request: &Request, op: Op) -> Result<Lease> {
        match &request.copies {
            Copies::Blocks { remote, .. } => self.lease(remote, op),
            Copies::Raw => self.lease(&[vec![0]], op),
        }
    }

    /// Ends the pool's use by the engine, whoever still holds it.
    pub(crate) fn close(self) -> Result<()> {
        drop(self.cache);
        self.region.close(PATIENCE)
    }
}

fn register(engine: &Engine, pool: &Arc<Pool>, memory: Memory) -> Result<Region> {
    match (memory, pool.file()) {
        (Memory::Device, _) => engine.alloc_npu(pool.len() as u64),
        (Memory::Pinned, _) => engine.alloc_pinned(pool.len() as u64),
        (Memory::Shared, Some(file)) => {
            let file = file.try_clone().map_err(|error| {
                ropeway::Error::os("register", "the pool's descriptor cannot be doubled", error)
            })?;
            engine.alloc(Host::memfd(file))
        }
        _ => {
            let keep_alive = Box::new(Arc::clone(pool));
            let base = std::ptr::NonNull::new(pool.base()).expect("a pool is mapped");
            // SAFETY: the pool stays mapped at this address, on the same pages, until the keep-alive is dropped; the
            // benchmark reads and writes it only before a lease is given and after it is free.
            unsafe { engine.register_raw(base, pool.len() as u64, keep_alive) }
        }
    }
}

/// A connection to the producer, and what was matched over it.
pub(crate) struct Connection {
    pub(crate) peer: Peer,
    pub(crate) route: Route,
}

impl Connection {
    pub(crate) fn new(engine: &Engine, descriptor: &Descriptor, published: &Published) -> Result<Self> {
        let peer = engine.connect(descriptor, PATIENCE)?.wait()?;
        let route = peer.route(&published.cache, CACHE, PATIENCE)?.wait()?;
        Ok(Self { peer, route })
    }

    pub(crate) fn transport(&self) -> &'static str {
        self.route.transport().name()
    }

    pub(crate) fn claim(&self, token: &str) -> Result<Grant> {
        let token: Token = token.parse()?;
        self.peer.claim(&token, PATIENCE)?.wait()
    }

    pub(crate) fn plan(&self, grant: &Grant, request: &Request, op: Op) -> Result<Plan> {
        match &request.copies {
            Copies::Blocks { local, remote } => self.plan_blocks(grant, local, remote, op),
            Copies::Raw => {
                let list: Vec<RawCopy> = request
                    .list
                    .iter()
                    .map(|d| RawCopy { local: d.local, remote: d.remote, len: d.len })
                    .collect();
                match op {
                    Op::Read => self.route.read_raw(grant, &list),
                    Op::Write => self.route.write_raw(grant, &list),
                }
            }
        }
    }

    pub(crate) fn plan_blocks(
        &self,
        grant: &Grant,
        local: &[Vec<u32>],
        remote: &[Vec<u32>],
        op: Op,
    ) -> Result<Plan> {
        let (local, remote) = (blocks(local), blocks(remote));
        match op {
            Op::Read => self.route.read(grant, &slices(&local), &slices(&remote)),
            Op::Write => self.route.write(grant, &slices(&local), &slices(&remote)),
        }
    }
}

/// Submits a plan, waiting for room where a limit is reached.
pub(crate) fn submit(connection: &Connection, plan: &Plan) -> Result<ropeway::Transfer> {
    loop {
        match plan.submit(Submit::default()) {
            Ok(transfer) => return Ok(transfer),
            Err(ropeway::SubmitError::Full { .. }) if connection.peer.wait_for_room(PATIENCE) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits for a transfer to end well.
pub(crate) fn wait(transfer: &ropeway::Transfer) -> Result<ropeway::Report> {
    transfer.wait(TRANSFER_PATIENCE).unwrap_or_else(|| {
        Err(ropeway::Error::new(
            ropeway::ErrorKind::TimedOut,
            "wait",
            format!("transfer {} did not end within {TRANSFER_PATIENCE:?}", transfer.id()),
        ))
    })
}

/// Waits until a lease's blocks may be reused.
pub(crate) fn settle(lease: &Lease) -> Result<()> {
    match lease.wait_free(PATIENCE) {
        Some(_) => Ok(()),
        None => Err(ropeway::Error::new(
            ropeway::ErrorKind::TimedOut,
            "settle",
            format!(
                "lease {} is not free after {PATIENCE:?}; withheld by {:?}",
                lease.id(),
                lease.withheld_by()
            ),
        )),
    }
}

fn blocks(ids: &[Vec<u32>]) -> Vec<Vec<BlockId>> {
    ids.iter().map(|ids| ids.iter().map(|&id| BlockId(id)).collect()).collect()
}

fn slices(ids: &[Vec<BlockId>]) -> Vec<&[BlockId]> {
    ids.iter().map(Vec::as_slice).collect()
}
