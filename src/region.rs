//! Regions: registered memory, and how it is let go.

use std::any::Any;
use std::collections::HashSet;
use std::fmt;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, Weak};
use std::time::{Duration, Instant};

use ropeway_core::plan::Rect;
use ropeway_core::{Error, ErrorKind, PeerId, RegionId, Result};
use ropeway_transport::{Fenced, Memory, TransportKind};

use crate::shared::Shared;

/// Host memory to allocate or adopt; see [`Engine::alloc`](crate::Engine::alloc).
#[derive(Debug)]
pub struct Host(pub(crate) HostKind);

#[derive(Debug)]
pub(crate) enum HostKind {
    Private(u64),
    Shared(u64),
    Memfd(OwnedFd),
}

impl Host {
    /// `bytes` of this process alone. Peers on this host reach it through the kernel (cma), others over tcp.
    pub fn private(bytes: u64) -> Self {
        Self(HostKind::Private(bytes))
    }

    /// `bytes` in a sealed memfd that peers on this host map and copy from directly: the quickest way.
    pub fn shared(bytes: u64) -> Self {
        Self(HostKind::Shared(bytes))
    }

    /// An existing memfd, whole: another allocator's memory (a KV cache, say) becomes a region without a copy.
    pub fn memfd(fd: OwnedFd) -> Self {
        Self(HostKind::Memfd(fd))
    }
}

/// A registered range of memory. Cheap to clone; closed when the last handle, cache, transfer and peer has let go.
///
/// No reference into it is ever handed out, since peers may write at any time: bytes go in and out by copy.
///
/// ```
/// # fn main() -> ropeway::Result<()> {
/// let engine = ropeway::Engine::builder().open()?;
/// let region = engine.alloc(ropeway::Host::private(1 << 20))?;
/// region.write(4096, b"blocks")?;
/// let mut back = [0; 6];
/// region.read(4096, &mut back)?;
/// assert_eq!(&back, b"blocks");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Region(pub(crate) Arc<RegionInner>);

/// How long the registrations of a dropped region may take to be undone.
const FORGET: Duration = Duration::from_secs(60);

/// Bytes of a row that are copied at once, from region to region: they stay in the cache of a core.
const COPY_PIECE: u64 = 128 << 10;

/// How long a device may take to put rows in order.
const REARRANGE: Duration = Duration::from_secs(60);

const OPEN: u8 = 0;
const SUSPENDED: u8 = 1;
const CLOSING: u8 = 2;

pub(crate) struct RegionInner {
    pub(crate) id: RegionId,
    pub(crate) memory: Arc<Memory>,
    shared: Weak<Shared>,
    phase: AtomicU8,
    /// Held to read while the host copies in or out, to write while the memory may be gone.
    touching: RwLock<()>,
    /// Links that hold an import.
    exports: Mutex<HashSet<(PeerId, TransportKind)>>,
}

impl Region {
    /// The region's id.
    pub fn id(&self) -> RegionId {
        self.0.id
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.0.memory.len()
    }

    /// Never true: a region has at least one byte.
    pub fn is_empty(&self) -> bool {
        self.0.memory.is_empty()
    }

    /// Where this process has it mapped; none for memory of a device. The address is good while this handle or a clone of it
    /// lives, but in a forked child and while the region is suspended. Transfers and peers touch the bytes at any time, so no
    /// Rust reference to them may be made: it is for languages and libraries that can live with that.
    pub fn address(&self) -> Option<NonNull<u8>> {
        self.0.memory.base()
    }

    /// Copies `into.len()` bytes out of the region, from byte `at` on.
    ///
    /// # Errors
    /// `OutOfBounds` when the range passes the region's end; `Forked` in a child process.
    pub fn read(&self, at: u64, into: &mut [u8]) -> Result<()> {
        let _there = self.0.touch("region read")?;
        self.0.memory.read(at, into)
    }

    /// Copies `from` into the region, from byte `at` on.
    ///
    /// # Errors
    /// `OutOfBounds` when the range passes the region's end; `Forked` in a child process.
    pub fn write(&self, at: u64, from: &[u8]) -> Result<()> {
        let _there = self.0.touch("region write")?;
        self.0.memory.write(at, from)
    }

    /// Sets `len` bytes from byte `at` on.
    ///
    /// # Errors
    /// `OutOfBounds` when the range passes the region's end; `Forked` in a child process.
    pub fn fill(&self, at: u64, len: u64, byte: u8) -> Result<()> {
        let _there = self.0.touch("region fill")?;
        self.0.memory.fill(at, len, byte)
    }

    /// Copies a rectangle of `from` into one of this region, which has as many rows of as many bytes. Regions may be the same,
    /// rectangles then must not overlap.
    ///
    /// # Errors
    /// `ApiMisuse` when the rectangles differ in size; `OutOfBounds` when one passes its region's end, and nothing of that
    /// row is written; `Forked` in a child process.
    pub fn copy_rect(&self, to: Rect, from: &Self, source: Rect) -> Result<()> {
        if (to.rows, to.row_bytes) != (source.rows, source.row_bytes) {
            let text = format!("{source:?} cannot become {to:?}: their sizes differ");
            return Err(Error::new(ErrorKind::ApiMisuse, "region copy", text));
        }
        let dense = |rect: &Rect| rect.row_stride == rect.row_bytes;
        let (rows, bytes) = match u64::from(to.rows).checked_mul(to.row_bytes) {
            Some(all) if dense(&to) && dense(&source) => (1, all),
            _ => (u64::from(to.rows), to.row_bytes),
        };
        // Neither region is locked while the other is.
        let mut piece = vec![0; bytes.min(COPY_PIECE) as usize];
        let at = |rect: &Rect, row: u64, done: u64| {
            row.checked_mul(rect.row_stride)
                .and_then(|skip| rect.offset.checked_add(skip)?.checked_add(done))
                .unwrap_or(u64::MAX)
        };
        for row in 0..rows {
            let mut done = 0;
            while done < bytes {
                let piece = &mut piece[..(bytes - done).min(COPY_PIECE) as usize];
                from.read(at(&source, row, done), piece)?;
                self.write(at(&to, row, done), piece)?;
                done += piece.len() as u64;
            }
        }
        Ok(())
    }

    /// As [`Self::copy_rect`] for many: the second of each pair is of `from`. Where both regions are memory of the engine's
    /// NPU, the device copies all of them, and the host waits.
    ///
    /// # Errors
    /// As [`Self::copy_rect`], and what the device said. When [`Error::local`] is not `Yes`, the device may still write.
    pub fn copy_rects(&self, from: &Self, pairs: &[(Rect, Rect)]) -> Result<()> {
        let npu = self.0.shared.upgrade().and_then(|shared| shared.npu.clone());
        let device = |region: &Self| region.0.memory.device().map(|range| range.device());
        let Some(npu) = npu.filter(|_| device(self).is_some() && device(self) == device(from)) else {
            return pairs.iter().try_for_each(|(to, source)| self.copy_rect(*to, from, *source));
        };
        // In one order for all, so that nobody waits for one while he holds the other; of one region once.
        let (first, second) = if self.0.id <= from.0.id { (self, from) } else { (from, self) };
        let _first = first.0.touch("region copy")?;
        let _second = (first.0.id != second.0.id).then(|| second.0.touch("region copy")).transpose()?;
        npu.rearrange(&self.0.memory, &from.0.memory, pairs.to_vec(), REARRANGE)
    }

    /// Closes the region: no new lease, import or transfer; peers must let go. Waits up to `timeout` until neither a
    /// transfer of ours nor a peer can touch its memory.
    ///
    /// # Errors
    /// `TimedOut`, naming who still holds it. The closing goes on; call again to wait longer.
    pub fn close(&self, timeout: Duration) -> Result<()> {
        self.0.memory.origin().check("region close")?;
        let Some(shared) = self.0.shared.upgrade() else { return Ok(()) };
        self.0.begin_close(&shared);
        self.0.wait_unheld(&shared, "region close", timeout)
    }

    /// Lets go of the memory for a while, for an inference engine's sleep mode: leases are revoked, transfers end, peers
    /// let go, native registrations are undone. Caches stay published; leases, routes and transfers are refused until
    /// [`Self::resume`]. After `Ok` the memory behind the region may be unmapped.
    ///
    /// # Errors
    /// `TimedOut`, naming who still holds it: the memory must stay. The suspension goes on; call again to wait longer.
    /// `Closed` when the region is closed.
    pub fn suspend(&self, timeout: Duration) -> Result<()> {
        self.0.memory.origin().check("region suspend")?;
        let Some(shared) = self.0.shared.upgrade() else { return Ok(()) };
        self.0.let_go(&shared, SUSPENDED);
        if self.0.phase.load(Ordering::SeqCst) == CLOSING {
            return Err(self.0.closed_error("region suspend"));
        }
        self.0.wait_unheld(&shared, "region suspend", timeout)?;
        // Copies of the host that were under way are over; later ones see the phase.
        drop(self.0.touching.write().unwrap_or_else(PoisonError::into_inner));
        match (&shared.npu, self.0.memory.device()) {
            (Some(npu), Some(_)) => npu.suspend(&self.0.memory),
            _ => Ok(()),
        }
    }

    /// Opens a suspended region again. Peers make their routes anew.
    ///
    /// # Errors
    /// `ApiMisuse` when it is not suspended.
    ///
    /// # Safety
    /// The whole range is mapped again, at the same addresses, and stays so as it was promised when it was registered.
    pub unsafe fn resume(&self) -> Result<()> {
        self.0.memory.origin().check("region resume")?;
        if self.0.phase.load(Ordering::SeqCst) == SUSPENDED
            && self.0.memory.device().is_some()
            && let Some(npu) = self.0.shared.upgrade().and_then(|shared| shared.npu.clone())
        {
            npu.resume(&self.0.memory)?;
        }
        let resumed = self.0.phase.compare_exchange(SUSPENDED, OPEN, Ordering::SeqCst, Ordering::SeqCst);
        resumed.map(drop).map_err(|_| {
            let text = format!("region {} is not suspended", self.0.id);
            Error::new(ErrorKind::ApiMisuse, "region resume", text)
        })
    }
}

impl RegionInner {
    pub(crate) fn new(id: RegionId, memory: Arc<Memory>, shared: Weak<Shared>) -> Arc<Self> {
        Arc::new(Self {
            id,
            memory,
            shared,
            phase: AtomicU8::new(OPEN),
            touching: RwLock::new(()),
            exports: Mutex::new(HashSet::new()),
        })
    }

    /// Whether it is closed, or suspended: nothing new begins on it.
    pub(crate) fn is_closing(&self) -> bool {
        self.phase.load(Ordering::SeqCst) != OPEN
    }

    /// For a copy by the host: the memory stays while the guard lives.
    fn touch(&self, operation: &'static str) -> Result<RwLockReadGuard<'_, ()>> {
        self.memory.origin().check(operation)?;
        let guard = self.touching.read().unwrap_or_else(PoisonError::into_inner);
        if self.phase.load(Ordering::SeqCst) == SUSPENDED {
            return Err(self.closed_error(operation));
        }
        Ok(guard)
    }

    /// A peer's link imports the region: it is held until that link lets go or is closed.
    pub(crate) fn export(&self, peer: PeerId, over: TransportKind) -> Result<Arc<Memory>> {
        let mut exports = self.exports();
        // Under the lock that `begin_close` takes after setting the flag: no export slips past a close.
        if self.is_closing() {
            return Err(self.closed_error("import"));
        }
        exports.insert((peer, over));
        Ok(Arc::clone(&self.memory))
    }

    /// The link has let go.
    pub(crate) fn withdrawn(&self, peer: PeerId, over: TransportKind) {
        self.exports().remove(&(peer, over));
    }

    pub(crate) fn closed_error(&self, operation: &'static str) -> Error {
        let text = match self.phase.load(Ordering::SeqCst) {
            SUSPENDED => format!("region {} is suspended; resume it first", self.id),
            _ => format!("region {} is closed", self.id),
        };
        Error::new(ErrorKind::Closed, operation, text)
    }

    pub(crate) fn begin_close(&self, shared: &Arc<Shared>) {
        self.let_go(shared, CLOSING);
    }

    /// From here on nothing new begins; leases are revoked and importers asked to let go.
    fn let_go(&self, shared: &Arc<Shared>, phase: u8) {
        let importers: Vec<(PeerId, TransportKind)> = {
            let exports = self.exports();
            if self.phase.fetch_max(phase, Ordering::SeqCst) != OPEN {
                return;
            }
            exports.iter().copied().collect()
        };
        shared.revoke_leases_on(self.id);
        for (id, over) in importers {
            let Some(link) = shared.peer(id).and_then(|peer| peer.link(over)) else { continue };
            if link.withdraw(self.id) == Fenced::Now {
                self.withdrawn(id, over);
            }
        }
        shared.progress.moved();
    }

    /// Waits until nobody can touch the memory, then undoes what transports registered.
    fn wait_unheld(&self, shared: &Arc<Shared>, operation: &'static str, timeout: Duration) -> Result<()> {
        let until = crate::deadline::after(timeout);
        loop {
            let seen = shared.progress.observe();
            let holders = self.holders(shared);
            if holders.is_empty() {
                return shared.forget_registrations(self.id, until);
            }
            if !shared.progress.wait(seen, until) {
                let holders = holders.join(", ");
                return Err(Error::new(
                    ErrorKind::TimedOut,
                    operation,
                    format!("region {} is still held after {timeout:?} by {holders}", self.id),
                ));
            }
        }
    }

    /// Who can still touch the memory, in words.
    fn holders(&self, shared: &Shared) -> Vec<String> {
        let mut holders: Vec<String> = self
            .exports()
            .iter()
            .map(|(id, over)| {
                let name = shared.peer(*id).map_or_else(|| format!("peer {id}"), |peer| peer.name());
                format!("{name} (import over {over})")
            })
            .collect();
        holders.extend(shared.flights_on(&self.memory).into_iter().map(|id| format!("transfer {id}")));
        holders.extend(
            shared.withheld_on(&self.memory).into_iter().map(|id| format!("transfer {id} (in quarantine)")),
        );
        holders.extend(shared.leases_on(self.id).into_iter().map(|id| format!("lease {id}")));
        holders
    }

    fn exports(&self) -> std::sync::MutexGuard<'_, HashSet<(PeerId, TransportKind)>> {
        self.exports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RegionInner {
    fn drop(&mut self) {
        if self.memory.origin().is_foreign() {
            return;
        }
        // Memory itself lives on while a transfer or an export pins it.
        if let Some(shared) = self.shared.upgrade() {
            self.begin_close(&shared);
            shared.forget_region(self.id);
            // Registrations keep the memory; undoing them may take long.
            let (weak, id) = (Arc::downgrade(&shared), self.id);
            if shared.transports.iter().any(|transport| transport.capabilities().kind.moves_devices()) {
                shared.control.spawn_blocking(move || {
                    let Some(shared) = weak.upgrade() else { return };
                    if let Err(error) = shared.forget_registrations(id, Instant::now() + FORGET) {
                        tracing::warn!(region = %id, %error, "a registration of a dropped region stays");
                    }
                });
            }
        }
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region").field("id", &self.0.id).field("len", &self.len()).finish()
    }
}

/// Keeps foreign memory alive for `register_raw`; dropped on the janitor thread when nothing touches it any more.
pub type KeepAlive = Box<dyn Any + Send>;
