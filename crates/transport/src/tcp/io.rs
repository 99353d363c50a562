//! The I/O thread: it serves all streams that no waiting thread drives, takes connections in, keeps the limits in time,
//! and sleeps when there is nothing to do.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ropeway_core::{Error, ErrorKind};
use rustix::event::{Timespec, epoll};

use super::accept::Acceptor;
use super::drive::Spinners;
use super::gate::Gate;
use super::lane::{Watch, Who};
use super::link::LinkCore;
use super::socket::Bell;

/// Token of the bell.
const BELL: u64 = 0;
/// Token of the listener.
pub(super) const LISTENER: u64 = 1;
const FIRST_TOKEN: u64 = 16;
/// Events taken at a time.
const EVENTS: usize = 64;

/// What the I/O thread and everyone else share.
pub(super) struct Shared {
    epoll: OwnedFd,
    bell: Bell,
    pub(super) gate: Arc<dyn Gate>,
    pub(super) spinners: Spinners,
    base: Instant,
    /// When the I/O thread next looks at the limits, in nanoseconds since `base`.
    next_look: AtomicU64,
    next_token: AtomicU64,
    table: Mutex<HashMap<u64, (Arc<LinkCore>, u16)>>,
    letters: Mutex<Letters>,
}

/// What others want of the I/O thread.
#[derive(Default)]
struct Letters {
    nudged: Vec<Arc<LinkCore>>,
    buried: Vec<Arc<LinkCore>>,
    /// A link waits for its peer: unattached connections may be its.
    expecting: bool,
    stopping: bool,
    stopped: bool,
}

impl Shared {
    pub(super) fn new(gate: Arc<dyn Gate>) -> Result<Self, Error> {
        let failed = |error: rustix::io::Errno| Error::os("open tcp", "no epoll instance", error.into());
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
        let bell = Bell::new().map_err(|error| Error::os("open tcp", "no eventfd", error))?;
        let shared = Self {
            epoll,
            bell,
            gate,
            spinners: Spinners::new(),
            base: Instant::now(),
            next_look: AtomicU64::new(u64::MAX),
            next_token: AtomicU64::new(FIRST_TOKEN),
            table: Mutex::default(),
            letters: Mutex::default(),
        };
        shared.watch_new(shared.bell.as_fd(), BELL, Watch { readable: true, writable: false })?;
        Ok(shared)
    }

    fn letters(&self) -> MutexGuard<'_, Letters> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn table(&self) -> MutexGuard<'_, HashMap<u64, (Arc<LinkCore>, u16)>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn token(&self) -> u64 {
        self.next_token.fetch_add(1, Ordering::Relaxed)
    }

    /// A link has its streams. Gives the first's token; the others follow it.
    pub(super) fn enter(&self, link: &Arc<LinkCore>, lanes: usize) -> u64 {
        let first = self.next_token.fetch_add(lanes as u64, Ordering::Relaxed);
        let mut table = self.table();
        for lane in 0..lanes {
            table.insert(first + lane as u64, (Arc::clone(link), lane as u16));
        }
        first
    }

    pub(super) fn leave(&self, first: u64, lanes: usize) {
        let mut table = self.table();
        let links: Vec<_> = (first..first + lanes as u64).filter_map(|token| table.remove(&token)).collect();
        drop(table);
        drop(links);
    }

    pub(super) fn watch_new(&self, fd: BorrowedFd<'_>, token: u64, watch: Watch) -> Result<(), Error> {
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), flags(watch))
            .map_err(|error| Error::os("link", "a descriptor cannot be watched", error.into()))
    }

    pub(super) fn watch_again(&self, fd: BorrowedFd<'_>, token: u64, watch: Watch) {
        if let Err(error) = epoll::modify(&self.epoll, fd, epoll::EventData::new_u64(token), flags(watch)) {
            tracing::error!(%error, "a tcp data stream cannot be watched any more");
        }
    }

    pub(super) fn unwatch(&self, fd: BorrowedFd<'_>) {
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Something is to be looked at by `at` at the latest.
    pub(super) fn wake_at(&self, at: Instant) {
        let at = at.saturating_duration_since(self.base).as_nanos();
        let at = u64::try_from(at).unwrap_or(u64::MAX - 1);
        if self.next_look.fetch_min(at, Ordering::SeqCst) > at {
            self.bell.ring();
        }
    }

    /// Orders were left for the link's streams.
    pub(super) fn nudge(&self, link: &Arc<LinkCore>) {
        self.letters().nudged.push(Arc::clone(link));
        self.bell.ring();
    }

    /// A link is over.
    pub(super) fn bury(&self, link: Arc<LinkCore>) {
        let mut letters = self.letters();
        if letters.stopped {
            drop(letters);
            link.tear_down();
            return;
        }
        letters.buried.push(link);
        drop(letters);
        self.bell.ring();
    }

    /// A link waits for its peer.
    pub(super) fn expect(&self) {
        self.letters().expecting = true;
        self.bell.ring();
    }

    /// Whether the I/O thread is to end, or has.
    pub(super) fn is_stopping(&self) -> bool {
        self.letters().stopping
    }

    pub(super) fn stop(&self) {
        self.letters().stopping = true;
        self.bell.ring();
    }
}

fn flags(watch: Watch) -> epoll::EventFlags {
    let mut flags = epoll::EventFlags::empty();
    flags.set(epoll::EventFlags::IN, watch.readable);
    flags.set(epoll::EventFlags::OUT, watch.writable);
    flags
}

/// The thread's body.
pub(super) fn run(shared: &Arc<Shared>, mut acceptor: Acceptor) {
    let mut events = Vec::with_capacity(EVENTS);
    loop {
        events.clear();
        let timeout = timeout(shared);
        match epoll::wait(&shared.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                tracing::error!(%error, "the tcp I/O thread cannot wait for events");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        // The first stream of a link carries its small batches: these go first.
        let mut bulk = Vec::new();
        for event in &events {
            match event.data.u64() {
                BELL => shared.bell.silence(),
                LISTENER => acceptor.accept(shared),
                token => {
                    // Errors and hang-ups are found by reading.
                    let flags = event.flags;
                    let readable = flags != epoll::EventFlags::OUT;
                    let found = shared.table().get(&token).cloned();
                    match found {
                        Some((link, 0)) => serve(&link, 0, readable),
                        Some((link, lane)) => bulk.push((link, lane, readable)),
                        None => acceptor.read(shared, token),
                    }
                }
            }
        }
        for (link, lane, readable) in bulk {
            serve(&link, lane, readable);
        }
        if !read_letters(shared, &mut acceptor) {
            break;
        }
        look_at_limits(shared, &mut acceptor);
    }
    acceptor.close(shared);
    let buried = {
        let mut letters = shared.letters();
        letters.stopped = true;
        std::mem::take(&mut letters.buried)
    };
    let mut left: Vec<_> = shared.table().values().map(|(link, _)| Arc::clone(link)).collect();
    left.sort_by_key(|link| Arc::as_ptr(link) as usize);
    left.dedup_by_key(|link| Arc::as_ptr(link) as usize);
    for link in buried {
        link.tear_down();
    }
    for link in left {
        link.die(Error::new(ErrorKind::Closed, "link", "the tcp transport was closed"));
    }
}

fn serve(link: &Arc<LinkCore>, lane: u16, readable: bool) {
    let Some(lane) = link.lanes().get(usize::from(lane)) else { return };
    if lane.driven.load(Ordering::SeqCst) || link.is_dying() {
        return;
    }
    let worked =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| lane.work(link, Who::Io, readable)));
    if worked.is_err() {
        link.die(Error::new(
            ErrorKind::Internal,
            "link",
            "serving a tcp data stream panicked; the link is given up",
        ));
    }
}

/// `false`: the thread ends.
fn read_letters(shared: &Arc<Shared>, acceptor: &mut Acceptor) -> bool {
    let (nudged, buried, expecting, stopping) = {
        let mut letters = shared.letters();
        let expecting = std::mem::take(&mut letters.expecting);
        (
            std::mem::take(&mut letters.nudged),
            std::mem::take(&mut letters.buried),
            expecting,
            letters.stopping,
        )
    };
    for link in nudged {
        for lane in link.lanes() {
            lane.try_work(&link);
        }
    }
    for link in buried {
        acceptor.forget(&link);
        link.tear_down();
    }
    if expecting {
        acceptor.match_claims(shared);
    }
    !stopping
}

fn timeout(shared: &Shared) -> Option<Timespec> {
    let at = shared.next_look.load(Ordering::SeqCst);
    if at == u64::MAX {
        return None;
    }
    let left = (shared.base + Duration::from_nanos(at)).saturating_duration_since(Instant::now());
    // Rounded up: epoll counts in milliseconds on old kernels, and too early means twice.
    let left = left + Duration::from_millis(1);
    Some(Timespec { tv_sec: left.as_secs().min(24 * 60 * 60) as _, tv_nsec: left.subsec_nanos().into() })
}

fn look_at_limits(shared: &Arc<Shared>, acceptor: &mut Acceptor) {
    let now = Instant::now();
    let due = shared.base + Duration::from_nanos(shared.next_look.load(Ordering::SeqCst).min(1 << 62));
    if due > now {
        return;
    }
    shared.next_look.store(u64::MAX, Ordering::SeqCst);
    let links: Vec<_> =
        shared.table().values().filter(|(_, lane)| *lane == 0).map(|(link, _)| Arc::clone(link)).collect();
    let next = links.iter().filter_map(|link| link.expire(now)).min();
    let next = next.into_iter().chain(acceptor.expire(shared, now)).min();
    if let Some(next) = next {
        shared.wake_at(next);
    }
}
