//! shm: memory in a memfd, on the same host, mapped once by the peer.

use std::sync::Arc;

use bytes::Bytes;
use ropeway_core::{Error, ErrorKind, Result};

use crate::fence::Cells;
use crate::onesided::{LinkCore, OneSided, random};
use crate::rendezvous::Meeting;
use crate::{Capabilities, Link, LinkConfig, Role, Transport, TransportKind};

/// The shm transport of one engine.
pub struct Shm {
    engine: Arc<OneSided>,
    capabilities: Capabilities,
}

impl Shm {
    /// On top of the engine's one-sided part.
    pub fn new(engine: &Arc<OneSided>) -> Self {
        let capabilities = Capabilities { any_memory: false, ..Capabilities::of(TransportKind::Shm) };
        Self { engine: Arc::clone(engine), capabilities }
    }
}

impl Transport for Shm {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn offer(&self) -> Bytes {
        Bytes::copy_from_slice(&self.engine.nonce)
    }

    fn link(&self, config: LinkConfig) -> Result<Arc<dyn Link>> {
        meet(&self.engine, TransportKind::Shm, config)
    }

    fn close(&self) {
        self.engine.close();
    }
}

/// Makes one side of a link over the host's side channel: for shm and cma.
pub(crate) fn meet(engine: &OneSided, kind: TransportKind, config: LinkConfig) -> Result<Arc<dyn Link>> {
    if !engine.config.same_host {
        let why = "the engine was opened without same-host transports";
        return Err(Error::new(ErrorKind::Unsupported, "link", why));
    }
    let mut nonce = [0; 8];
    random(&mut nonce)?;
    let link = LinkCore::new(engine, kind, Cells::shared(u64::from_le_bytes(nonce))?, &config)?;
    let meeting = Meeting::new(Arc::clone(&link), config.key, config.deadline);
    match config.role {
        Role::Passive => engine.host.expect(meeting),
        Role::Active => {
            let peer = <[u8; 16]>::try_from(&config.offer[..]);
            let met = match peer {
                Ok(peer) => meeting.go(&engine.host, &peer),
                Err(_) => Err(Error::new(ErrorKind::Protocol, "link", "the peer's offer is not 16 bytes")),
            };
            if let Err(error) = met {
                link.discard();
                return Err(error);
            }
        }
    }
    Ok(link)
}
