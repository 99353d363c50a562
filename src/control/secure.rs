//! The authenticated, encrypted stream under a session: preamble, Noise handshake, then records
//! of at most 64 KiB that carry the session's frames.
//!
//! The byte layout is in `docs/PROTOCOL.md`. Everything read here comes from whoever reached the port: lengths are
//! checked before memory is taken, and nothing panics.

use std::time::Duration;

use ropeway_core::{Error, ErrorKind, Incarnation, Result};
use snow::{HandshakeState, StatelessTransportState};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::secret::{AuthMode, Psk};

/// The control protocol spoken by this build, and the oldest that it still understands.
pub(crate) const VERSION: u16 = 1;
pub(crate) const OLDEST_VERSION: u16 = 1;

const MAGIC: [u8; 4] = *b"RPWY";
const PREAMBLE_BYTES: usize = 24;
const NOISE: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
/// Noise's own cap on a message, and what of it is left for plain text.
const RECORD_BYTES: usize = 65_535;
const TAG_BYTES: usize = 16;
const PLAIN_BYTES: usize = RECORD_BYTES - TAG_BYTES;

/// A byte stream that a session can run over.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What each side says in clear before the handshake. Bound into it as the prologue, so that it cannot be altered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Preamble {
    oldest: u16,
    newest: u16,
    auth: AuthMode,
    /// The engine that the initiator wants to reach (0: whoever listens there), or the responder's own.
    incarnation: u64,
}

impl Preamble {
    fn encode(self) -> [u8; PREAMBLE_BYTES] {
        let mut out = [0; PREAMBLE_BYTES];
        out[..4].copy_from_slice(&MAGIC);
        out[4..6].copy_from_slice(&self.oldest.to_le_bytes());
        out[6..8].copy_from_slice(&self.newest.to_le_bytes());
        out[8] = self.auth as u8;
        out[16..24].copy_from_slice(&self.incarnation.to_le_bytes());
        out
    }

    fn decode(raw: &[u8; PREAMBLE_BYTES]) -> Result<Self> {
        if raw[..4] != MAGIC {
            return Err(protocol("the first bytes are not Ropeway's; another protocol speaks on this port"));
        }
        let auth = AuthMode::from_wire(raw[8])
            .ok_or_else(|| protocol(format!("unknown authentication mode {}", raw[8])))?;
        Ok(Self {
            oldest: u16::from_le_bytes([raw[4], raw[5]]),
            newest: u16::from_le_bytes([raw[6], raw[7]]),
            auth,
            incarnation: u64::from_le_bytes(raw[16..24].try_into().expect("eight bytes")),
        })
    }
}

/// A session's stream after the handshake, split into its two directions.
pub(crate) struct Secured<S> {
    pub(crate) reader: RecordReader<tokio::io::ReadHalf<S>>,
    pub(crate) writer: RecordWriter<tokio::io::WriteHalf<S>>,
}

/// The connecting side. `want` is the incarnation that the descriptor names, if it names one.
pub(crate) async fn initiate<S: Stream>(
    mut stream: S,
    psk: &Psk,
    want: Option<Incarnation>,
) -> Result<Secured<S>> {
    let ours = Preamble {
        oldest: OLDEST_VERSION,
        newest: VERSION,
        auth: psk.mode,
        incarnation: want.map_or(0, Incarnation::get),
    };
    stream.write_all(&ours.encode()).await.map_err(|e| lost("sending the preamble", e))?;
    let theirs = read_preamble(&mut stream).await?;
    if let Some(want) = want
        && want.get() != theirs.incarnation
    {
        return Err(Error::new(
            ErrorKind::StaleLease,
            "connect",
            format!(
                "the engine listening there is {:016x}, not {want}: it was restarted; fetch its new descriptor",
                theirs.incarnation
            ),
        ));
    }
    if theirs.auth != ours.auth {
        return Err(Error::new(
            ErrorKind::Denied,
            "connect",
            format!("the peer asks for {:?} authentication, this side offered {:?}", theirs.auth, ours.auth),
        ));
    }
    common_version(ours, theirs)?;
    let mut noise = handshake_state(psk, ours, theirs, true)?;
    send_handshake(&mut stream, &mut noise).await?;
    receive_handshake(&mut stream, &mut noise).await?;
    secured(stream, noise)
}

/// The listening side. `psk` gives the key for the mode that the initiator asked for, or refuses the mode.
pub(crate) async fn respond<S: Stream>(mut stream: S, own: Incarnation, psk: &Psk) -> Result<Secured<S>> {
    let theirs = read_preamble(&mut stream).await?;
    let ours = Preamble { oldest: OLDEST_VERSION, newest: VERSION, auth: psk.mode, incarnation: own.get() };
    // Told in any case: a stale descriptor or a wrong mode gets its reason, not a silent close. Neither is secret.
    stream.write_all(&ours.encode()).await.map_err(|e| lost("sending the preamble", e))?;
    if theirs.incarnation != 0 && theirs.incarnation != own.get() {
        return Err(Error::new(
            ErrorKind::StaleLease,
            "accept",
            format!("a peer asked for incarnation {:016x}; this is {own}", theirs.incarnation),
        ));
    }
    if theirs.auth != ours.auth {
        return Err(Error::new(
            ErrorKind::Denied,
            "accept",
            format!("a peer offered {:?} authentication; this engine asks for {:?}", theirs.auth, ours.auth),
        ));
    }
    common_version(theirs, ours)?;
    let mut noise = handshake_state(psk, theirs, ours, false)?;
    receive_handshake(&mut stream, &mut noise).await?;
    send_handshake(&mut stream, &mut noise).await?;
    secured(stream, noise)
}

/// Bounds a handshake in time: a silent peer holds its place no longer than this.
pub(crate) async fn within<T>(limit: Duration, step: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(limit, step).await.unwrap_or_else(|_| {
        Err(Error::new(
            ErrorKind::TimedOut,
            "handshake",
            format!("no answer within {limit:?}; is that address Ropeway's control port?"),
        ))
    })
}

async fn read_preamble<S: Stream>(stream: &mut S) -> Result<Preamble> {
    let mut raw = [0; PREAMBLE_BYTES];
    stream.read_exact(&mut raw).await.map_err(|e| lost("reading the preamble", e))?;
    Preamble::decode(&raw)
}

fn common_version(a: Preamble, b: Preamble) -> Result<u16> {
    let newest = a.newest.min(b.newest);
    if newest < a.oldest.max(b.oldest) {
        return Err(Error::new(
            ErrorKind::Mismatch,
            "handshake",
            format!(
                "no common protocol version: one side speaks {}..={}, the other {}..={}",
                a.oldest, a.newest, b.oldest, b.newest
            ),
        ));
    }
    Ok(newest)
}

fn handshake_state(psk: &Psk, first: Preamble, second: Preamble, initiator: bool) -> Result<HandshakeState> {
    let mut prologue = [0; 2 * PREAMBLE_BYTES];
    prologue[..PREAMBLE_BYTES].copy_from_slice(&first.encode());
    prologue[PREAMBLE_BYTES..].copy_from_slice(&second.encode());
    let build = || {
        let builder = snow::Builder::new(NOISE.parse()?).psk(0, psk.key())?.prologue(&prologue)?;
        if initiator { builder.build_initiator() } else { builder.build_responder() }
    };
    build().map_err(|e: snow::Error| {
        Error::new(ErrorKind::Internal, "handshake", "Noise set-up failed").with_source(e)
    })
}

async fn send_handshake<S: Stream>(stream: &mut S, noise: &mut HandshakeState) -> Result<()> {
    let mut frame = [0; 2 + 128];
    let len = noise.write_message(&[], &mut frame[2..]).map_err(denied)?;
    frame[..2].copy_from_slice(&(len as u16).to_le_bytes());
    stream.write_all(&frame[..2 + len]).await.map_err(|e| lost("sending the handshake", e))
}

async fn receive_handshake<S: Stream>(stream: &mut S, noise: &mut HandshakeState) -> Result<()> {
    let mut frame = [0; 128];
    let len = stream.read_u16_le().await.map_err(closed_early)? as usize;
    if len > frame.len() {
        return Err(protocol(format!("a handshake message of {len} bytes; the limit is {}", frame.len())));
    }
    stream.read_exact(&mut frame[..len]).await.map_err(closed_early)?;
    noise.read_message(&frame[..len], &mut [0; 128]).map_err(denied)?;
    Ok(())
}

fn secured<S: Stream>(stream: S, noise: HandshakeState) -> Result<Secured<S>> {
    let noise = std::sync::Arc::new(noise.into_stateless_transport_mode().map_err(denied)?);
    let (read, write) = tokio::io::split(stream);
    let buffer = || vec![0; 2 + RECORD_BYTES].into_boxed_slice();
    Ok(Secured {
        reader: RecordReader {
            stream: read,
            noise: noise.clone(),
            nonce: 0,
            plain: buffer(),
            cipher: buffer(),
        },
        writer: RecordWriter { stream: write, noise, nonce: 0, record: buffer() },
    })
}

/// Reads records.
pub(crate) struct RecordReader<R> {
    stream: R,
    noise: std::sync::Arc<StatelessTransportState>,
    nonce: u64,
    plain: Box<[u8]>,
    cipher: Box<[u8]>,
}

impl<R: AsyncRead + Unpin> RecordReader<R> {
    /// The next record, decrypted; `None` at the end of the stream between records.
    pub(crate) async fn next(&mut self) -> Result<Option<&[u8]>> {
        let mut prefix = [0; 2];
        match self.stream.read(&mut prefix[..1]).await.map_err(|e| lost("reading", e))? {
            0 => return Ok(None),
            _ => self.stream.read_exact(&mut prefix[1..]).await.map_err(|e| lost("reading", e))?,
        };
        let len = u16::from_le_bytes(prefix) as usize;
        if len < TAG_BYTES {
            return Err(protocol("a record shorter than its authentication tag"));
        }
        self.stream.read_exact(&mut self.cipher[..len]).await.map_err(|e| lost("reading", e))?;
        let len = self
            .noise
            .read_message(self.nonce, &self.cipher[..len], &mut self.plain)
            .map_err(|_| protocol("a record failed authentication"))?;
        self.nonce += 1;
        Ok(Some(&self.plain[..len]))
    }
}

impl<R: tokio::io::AsyncRead + Unpin> RecordReader<R> {
    /// Reads to the end of the stream, and throws it away.
    pub(crate) async fn drain(&mut self) {
        while matches!(self.stream.read(&mut self.cipher).await, Ok(1..)) {}
    }
}

/// Writes bytes as records.
pub(crate) struct RecordWriter<W> {
    stream: W,
    noise: std::sync::Arc<StatelessTransportState>,
    nonce: u64,
    record: Box<[u8]>,
}

impl<W: AsyncWrite + Unpin> RecordWriter<W> {
    /// Sends the bytes in as few records as hold them; returns when the kernel has all of them.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        for piece in bytes.chunks(PLAIN_BYTES) {
            let len = self.noise.write_message(self.nonce, piece, &mut self.record[2..]).map_err(|e| {
                Error::new(ErrorKind::Internal, "session", "encryption failed").with_source(e)
            })?;
            self.nonce += 1;
            self.record[..2].copy_from_slice(&(len as u16).to_le_bytes());
            self.stream.write_all(&self.record[..2 + len]).await.map_err(|e| lost("sending", e))?;
        }
        self.stream.flush().await.map_err(|e| lost("sending", e))
    }

    /// Ends the stream in this direction.
    pub(crate) async fn shut(&mut self) {
        let _ = self.stream.shutdown().await;
    }
}

fn protocol(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Protocol, "session", message)
}

fn lost(doing: &str, source: std::io::Error) -> Error {
    Error::new(ErrorKind::LinkLost, "session", format!("{doing}: {source}")).with_source(source)
}

fn closed_early(source: std::io::Error) -> Error {
    Error::new(
        ErrorKind::Denied,
        "handshake",
        "the peer closed the connection during the handshake; the secret, key or mode does not match its own",
    )
    .with_source(source)
}

fn denied(source: snow::Error) -> Error {
    Error::new(ErrorKind::Denied, "handshake", "authentication failed: the two sides hold different secrets")
        .with_source(source)
}

#[cfg(test)]
mod tests;
