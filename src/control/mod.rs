//! The control thread: listener, sessions and timers, on a private single-threaded runtime.
//!
//! It only moves messages and time. What they mean is decided by the machines in core, under [`Shared`]'s locks.

pub(crate) mod secure;
mod session;

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use ropeway_core::{Error, ErrorKind, Result};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};

pub(crate) use session::{Session, Target, Waiting, accepted, connect_far, connect_near};

use crate::peer::Peer;
use crate::pending::Answer;
use crate::shared::Shared;

/// How long a stranger may take to prove who it is.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long the thread of a closed engine stays for streams whose peers have not closed their end.
const LINGER: Duration = Duration::from_secs(5);

/// The engine's hold on its control thread.
pub(crate) struct Control {
    handle: Handle,
    stop: Arc<Notify>,
    timer: Arc<Notify>,
    /// When the control thread means to wake by itself.
    wake_at: Mutex<Option<Instant>>,
    streams: Arc<Streams>,
}

/// Streams of sessions that are not closed yet. A socket that is closed while bytes wait in it resets the connection, and
/// the peer loses what was said to it last: so each is read to its end, and the thread stays for them.
#[derive(Default)]
struct Streams {
    open: AtomicUsize,
    closed: Notify,
}

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// Transfers too: a transport must work.
    Blocks,
    /// The session alone.
    Control,
}

/// Who waits for a peer, and what for.
pub(crate) struct Wanted {
    pub(crate) purpose: Purpose,
    pub(crate) answer: Answer<Peer>,
}

/// Held while a task uses a session's stream.
pub(crate) struct StreamUse(Arc<Streams>);

impl Drop for StreamUse {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
        self.0.closed.notify_one();
    }
}

impl Streams {
    async fn wait_closed(&self) {
        while self.open.load(Ordering::Acquire) > 0 {
            self.closed.notified().await;
        }
    }
}

impl Control {
    /// Starts the thread. `shared` is filled in by `run`, which follows at once.
    pub(crate) fn start() -> Result<(Self, tokio::runtime::Runtime)> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(|e| Error::os("open", "the control thread's runtime", e))?;
        let control = Self {
            handle: runtime.handle().clone(),
            stop: Arc::new(Notify::new()),
            timer: Arc::new(Notify::new()),
            wake_at: Mutex::new(None),
            streams: Arc::default(),
        };
        Ok((control, runtime))
    }

    /// Puts the runtime on its thread.
    pub(crate) fn run(
        &self,
        runtime: tokio::runtime::Runtime,
        shared: &Arc<Shared>,
        listener: Option<TcpListener>,
    ) -> Result<()> {
        let weak = Arc::downgrade(shared);
        let (stop, timer) = (Arc::clone(&self.stop), Arc::clone(&self.timer));
        let streams = Arc::clone(&self.streams);
        std::thread::Builder::new()
            .name("ropeway-control".into())
            .spawn(move || {
                runtime.block_on(async {
                    if let Some(listener) = listener {
                        tokio::spawn(accept(weak.clone(), listener));
                    }
                    tokio::select! {
                        () = stop.notified() => {}
                        () = timers(weak, timer) => {}
                    }
                    let _ = tokio::time::timeout(LINGER, streams.wait_closed()).await;
                });
                // Sessions still open are dropped with the runtime; blocking connects are not waited for.
                runtime.shutdown_background();
            })
            .map_err(|e| Error::os("open", "the control thread", e))?;
        Ok(())
    }

    /// Runs a future on the control thread.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(task);
    }

    /// A task is about to use a session's stream.
    pub(crate) fn use_stream(&self) -> StreamUse {
        self.streams.open.fetch_add(1, Ordering::AcqRel);
        StreamUse(Arc::clone(&self.streams))
    }

    /// Runs blocking work (rendezvous, imports) off the control thread.
    pub(crate) fn spawn_blocking(&self, work: impl FnOnce() + Send + 'static) {
        self.handle.spawn_blocking(work);
    }

    /// Makes the control thread look at the timers no later than `at`.
    pub(crate) fn wake_by(&self, at: Instant) {
        let mut wake_at = self.wake_at.lock().unwrap_or_else(PoisonError::into_inner);
        if wake_at.is_none_or(|planned| at < planned) {
            *wake_at = Some(at);
            drop(wake_at);
            self.timer.notify_one();
        }
    }

    /// A connected socket of this process, for the control thread's tasks.
    pub(crate) fn adopt(
        &self,
        stream: std::os::unix::net::UnixStream,
    ) -> std::io::Result<tokio::net::UnixStream> {
        let _context = self.handle.enter();
        tokio::net::UnixStream::from_std(stream)
    }

    /// Ends the thread; does not wait for it.
    pub(crate) fn stop(&self) {
        self.stop.notify_one();
    }

    fn planned(&self) -> Option<Instant> {
        *self.wake_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sleeps until the next timer, then lets the engine look at all of them.
async fn timers(shared: Weak<Shared>, changed: Arc<Notify>) {
    loop {
        let Some(planned) = shared.upgrade().map(|shared| shared.control.planned()) else { return };
        match planned {
            None => changed.notified().await,
            Some(at) => {
                tokio::select! {
                    () = changed.notified() => {}
                    () = tokio::time::sleep_until(at.into()) => {}
                }
            }
        }
        let Some(shared) = shared.upgrade() else { return };
        if shared.control.planned().is_some_and(|at| at <= Instant::now()) {
            *shared.control.wake_at.lock().unwrap_or_else(PoisonError::into_inner) = None;
            if let Some(next) = shared.tick() {
                shared.control.wake_by(next);
            }
        }
    }
}

/// Takes connections; each is a stranger until its handshake has succeeded, and there is a limit to strangers.
async fn accept(shared: Weak<Shared>, listener: TcpListener) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let strangers = match shared.upgrade() {
        Some(shared) => Arc::new(Semaphore::new(shared.limits.handshakes() as usize)),
        None => return,
    };
    loop {
        let Ok(permit) = Arc::clone(&strangers).acquire_owned().await else { return };
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, say: taking a breath is better than spinning on the same error.
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let shared = shared.clone();
        tokio::spawn(async move {
            let outcome = accepted(shared, stream, Some(permit)).await;
            if let Err(error) = outcome {
                tracing::info!(%from, %error, "a connection was refused");
            }
        });
    }
}

/// Connects to one of the addresses, the first that answers.
async fn dial(addresses: &[SocketAddr]) -> Result<tokio::net::TcpStream> {
    let mut failures = Vec::new();
    for address in addresses {
        match tokio::net::TcpStream::connect(address).await {
            Ok(stream) => {
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) => failures.push(format!("{address}: {error}")),
        }
    }
    let why = if failures.is_empty() {
        "the descriptor has no address, and its engine is not in this process; open it with `listen`"
            .to_owned()
    } else {
        failures.join("; ")
    };
    Err(Error::new(ErrorKind::LinkLost, "connect", why))
}
