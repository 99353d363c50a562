//! loopback: both engines in one process. The peer's memory is an `Arc` away.

use std::sync::{Arc, Weak};
use std::time::Instant;

use bytes::Bytes;
use ropeway_core::{Error, ErrorKind, Result};

use crate::fence::Cells;
use crate::onesided::{Far, LinkCore, OneSided, Path, Way};
use crate::{Capabilities, Link, LinkConfig, LinkKey, Role, Transport, TransportKind};

/// The loopback transport of one engine.
pub struct Loopback {
    engine: Arc<OneSided>,
    capabilities: Capabilities,
}

/// Passive sides of this process that wait for their peer. Plain data: nothing runs at exit.
static WAITING: std::sync::Mutex<Vec<Waiting>> = std::sync::Mutex::new(Vec::new());
static ARRIVED: std::sync::Condvar = std::sync::Condvar::new();

struct Waiting {
    /// Who waits.
    engine: [u8; 16],
    key: LinkKey,
    link: Weak<LinkCore>,
    deadline: Instant,
}

impl Loopback {
    /// On top of the engine's one-sided part.
    pub fn new(engine: &Arc<OneSided>) -> Self {
        let capabilities = Capabilities::of(TransportKind::Loopback);
        Self { engine: Arc::clone(engine), capabilities }
    }
}

impl Transport for Loopback {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// The engine's name and the process: a peer elsewhere sees that it is not here.
    fn offer(&self) -> Bytes {
        let mut offer = self.engine.nonce.to_vec();
        offer.extend(process());
        offer.into()
    }

    fn link(&self, config: LinkConfig) -> Result<Arc<dyn Link>> {
        let link = LinkCore::new(&self.engine, TransportKind::Loopback, Cells::private(), &config)?;
        match config.role {
            Role::Passive => wait_for_peer(self.engine.nonce, &config, &link),
            Role::Active => {
                if let Err(error) = find_peer(&config).and_then(|peer| join(&link, &peer)) {
                    link.discard();
                    return Err(error);
                }
            }
        }
        Ok(link)
    }

    fn close(&self) {
        self.engine.close();
    }
}

/// Drawn once per process; a forked child inherits it, but no engine.
fn process() -> [u8; 16] {
    static PROCESS: std::sync::OnceLock<[u8; 16]> = std::sync::OnceLock::new();
    *PROCESS.get_or_init(|| {
        let mut drawn = [0; 16];
        // Without randomness two processes could look alike; then no link is found, and nothing is touched.
        let _ = crate::onesided::random(&mut drawn);
        drawn
    })
}

fn wait_for_peer(engine: [u8; 16], config: &LinkConfig, link: &Arc<LinkCore>) {
    let mut waiting = WAITING.lock().unwrap_or_else(|poison| poison.into_inner());
    let now = Instant::now();
    waiting.retain(|other| other.deadline > now && other.link.strong_count() != 0);
    waiting.push(Waiting { engine, key: config.key, link: Arc::downgrade(link), deadline: config.deadline });
    drop(waiting);
    link.expire(config.deadline);
    ARRIVED.notify_all();
}

fn find_peer(config: &LinkConfig) -> Result<Arc<LinkCore>> {
    let refuse = |kind, why: &str| Err(Error::new(kind, "link", why));
    let Some((engine, process_of_peer)) = config.offer.split_first_chunk::<16>() else {
        return refuse(ErrorKind::Protocol, "the peer's offer is not 32 bytes");
    };
    if process_of_peer != process() {
        return refuse(ErrorKind::Unsupported, "the peer is in another process");
    }
    let mut waiting = WAITING.lock().unwrap_or_else(|poison| poison.into_inner());
    loop {
        if let Some(index) = waiting.iter().position(|w| w.engine == *engine && w.key == config.key) {
            let found = waiting.swap_remove(index);
            if let Some(link) = found.link.upgrade() {
                return Ok(link);
            }
        }
        let left = config.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return refuse(ErrorKind::TimedOut, "the peer's side did not come before the deadline");
        }
        waiting = ARRIVED.wait_timeout(waiting, left).unwrap_or_else(|poison| poison.into_inner()).0;
    }
}

fn join(active: &Arc<LinkCore>, passive: &Arc<LinkCore>) -> Result<()> {
    let far_of = |link: &Arc<LinkCore>| Far {
        fence: link.fence_view().clone(),
        gate: link.gate(),
        cells: link.cells().view(),
        way: Way::Mapped,
        path: Path::Neighbour(Arc::downgrade(link)),
    };
    let met = active.attach(far_of(passive)) && passive.attach(far_of(active));
    if !met {
        return Err(Error::new(ErrorKind::Closed, "link", "the link was closed while it was made"));
    }
    passive.sink().attached();
    Ok(())
}
