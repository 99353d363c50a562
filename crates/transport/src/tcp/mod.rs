//! The tcp transport: one compact request per batch, answered by segments that the kernel scatters straight into place.
//!
//! Every request passes through the owner, who checks lease, bounds and limits before it touches memory, and looks at
//! the lease again around each call that does. The byte layout is in `docs/PROTOCOL.md`.

mod accept;
mod attach;
mod drive;
mod flight;
mod gate;
mod io;
mod lane;
mod link;
mod receive;
mod send;
mod served;
mod socket;
mod staged;
#[cfg(test)]
mod tests;
mod window;
mod wire;

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use ropeway_core::{Error, ErrorKind, Limits};

use crate::{Capabilities, Link, LinkConfig, Role, Transport, TransportKind};
use accept::{Acceptor, Expected};
pub use gate::Gate;
use io::{LISTENER, Shared};
use lane::{Lane, Watch};
use link::{LinkCore, TcpLink};

/// Batches of at most so many bytes travel on a link's first stream, ahead of everything big.
const SMALL_BYTES: u64 = 64 << 10;
/// Region bytes of one segment. 256 KiB: a small answer waits for one at most, and a header costs a thousandth of it.
const SEGMENT_BYTES: u32 = 256 << 10;
/// A batch is cut over so many streams as this many bytes fit into it.
const STRIPE_BYTES: u64 = 4 << 20;
/// Streams of one link: the small one, and what `Limits::streams` may ask for.
const LANES_MAX: usize = 65;
/// Version of the offer.
const OFFER_VERSION: u8 = 1;

/// What the transport is made from.
#[derive(Clone)]
pub struct TcpConfig {
    /// Where peers may come to. `None`: this engine only goes to others. Port 0: one that is free.
    pub listen: Option<SocketAddr>,
    /// The address that peers are told, where it is not the bound one: another host's view of a wildcard or NAT.
    pub advertise: Option<IpAddr>,
    /// `streams`, `handshakes` and `abandon_after` count here.
    pub limits: Limits,
    /// The engine's word on its leases.
    pub gate: Arc<dyn Gate>,
}

/// The tcp transport of one engine: one listener, one I/O thread.
pub struct Tcp {
    capabilities: Capabilities,
    shared: Arc<Shared>,
    expected: Arc<Expected>,
    address: Option<SocketAddr>,
    offer: Bytes,
    streams: u16,
}

impl Tcp {
    /// Binds the data port and starts the I/O thread.
    ///
    /// # Errors
    /// `Resource`: the port is taken, no descriptor or thread is to be had.
    pub fn new(config: TcpConfig) -> Result<Self, Error> {
        let TcpConfig { listen, advertise, limits, gate } = config;
        let shared = Arc::new(Shared::new(gate)?);
        let listener = listen.map(TcpListener::bind).transpose().map_err(|error| {
            let address = listen.map(|listen| listen.to_string()).unwrap_or_default();
            Error::os("open tcp", format!("the data port {address} cannot be bound"), error)
        })?;
        let mut address = None;
        if let Some(listener) = &listener {
            let failed = |error| Error::os("open tcp", "the data port cannot be used", error);
            listener.set_nonblocking(true).map_err(failed)?;
            address = Some(listener.local_addr().map_err(failed)?);
            shared.watch_new(listener.as_fd(), LISTENER, Watch { readable: true, writable: false })?;
        }
        let told = address.map(|bound| SocketAddr::new(advertise.unwrap_or(bound.ip()), bound.port()));
        let expected = Arc::new(Expected::default());
        let acceptor = Acceptor::new(listener, Arc::clone(&expected), limits.handshakes());
        let thread = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("ropeway-tcp".into())
            .spawn(move || io::run(&thread, acceptor))
            .map_err(|error| Error::os("open tcp", "the I/O thread cannot be started", error))?;
        Ok(Self {
            capabilities: Capabilities {
                one_sided: false,
                target_checked: true,
                ..Capabilities::of(TransportKind::Tcp)
            },
            shared,
            expected,
            address,
            offer: offer_encode(told),
            streams: limits.streams().clamp(1, LANES_MAX as u32 - 1) as u16,
        })
    }

    /// Where the data port is bound; `None` when this engine only goes to others.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    fn connect(&self, config: LinkConfig) -> Result<Arc<dyn Link>, Error> {
        let address = offer_decode(&config.offer)?;
        let link = LinkCore::new(Arc::clone(&self.shared), config.sink);
        let lanes = self.streams + 1;
        let streams = (0..lanes)
            .map(|lane| {
                let (stream, ours, theirs) =
                    attach::connect(address, &config.key, lane, lanes, config.deadline)?;
                Lane::new(lane, stream, ours, theirs)
            })
            .collect::<Result<_, Error>>()?;
        link.attach(streams)?;
        Ok(Arc::new(TcpLink(link)))
    }
}

impl Transport for Tcp {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn offer(&self) -> Bytes {
        self.offer.clone()
    }

    fn link(&self, config: LinkConfig) -> Result<Arc<dyn Link>, Error> {
        if self.shared.is_stopping() {
            return Err(Error::new(ErrorKind::Closed, "link", "the tcp transport was closed"));
        }
        if config.role == Role::Active {
            return self.connect(config);
        }
        if self.address.is_none() {
            return Err(Error::new(ErrorKind::Unsupported, "link", "this engine has no tcp data port"));
        }
        if config.deadline <= Instant::now() {
            return Err(Error::new(ErrorKind::TimedOut, "link", "the deadline has passed already"));
        }
        let link = LinkCore::new(Arc::clone(&self.shared), config.sink);
        self.expected.add(Arc::clone(&link), config.key, config.deadline);
        self.shared.expect();
        Ok(Arc::new(TcpLink(link)))
    }

    fn close(&self) {
        self.shared.stop();
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        self.close();
    }
}

fn offer_encode(address: Option<SocketAddr>) -> Bytes {
    let mut out = BytesMut::with_capacity(20);
    out.put_u8(OFFER_VERSION);
    match address {
        None => out.put_u8(0),
        Some(SocketAddr::V4(address)) => {
            out.put_u8(4);
            out.put_slice(&address.ip().octets());
            out.put_u16_le(address.port());
        }
        Some(SocketAddr::V6(address)) => {
            out.put_u8(6);
            out.put_slice(&address.ip().octets());
            out.put_u16_le(address.port());
        }
    }
    out.freeze()
}

fn offer_decode(offer: &[u8]) -> Result<SocketAddr, Error> {
    let refused = |kind, why: &str| Err(Error::new(kind, "link", format!("the peer's tcp offer: {why}")));
    let (ip, port): (IpAddr, [u8; 2]) = match offer {
        [OFFER_VERSION, 0] => return refused(ErrorKind::Unsupported, "it has no data port"),
        [OFFER_VERSION, 4, a, b, c, d, port @ ..] if port.len() == 2 => {
            ([*a, *b, *c, *d].into(), [port[0], port[1]])
        }
        [OFFER_VERSION, 6, rest @ ..] if rest.len() == 18 => {
            let mut ip = [0; 16];
            ip.copy_from_slice(&rest[..16]);
            (ip.into(), [rest[16], rest[17]])
        }
        [OFFER_VERSION, ..] => return refused(ErrorKind::Protocol, "malformed"),
        _ => return refused(ErrorKind::Mismatch, "of another version"),
    };
    if ip.is_unspecified() {
        return refused(
            ErrorKind::Mismatch,
            "it listens on every address and names none; let it advertise one",
        );
    }
    Ok(SocketAddr::new(ip, u16::from_le_bytes(port)))
}

/// Every decoder of the data stream, for the fuzzer.
#[cfg(fuzzing)]
pub fn fuzz(bytes: &[u8]) {
    wire::fuzz(bytes);
    if let Some((claim, _)) = bytes.split_first_chunk::<{ attach::CLAIM_BYTES }>()
        && let Ok(decoded) = attach::Claim::decode(claim)
    {
        assert_eq!(decoded.encode(), *claim);
    }
    let _ = offer_decode(bytes);
}
