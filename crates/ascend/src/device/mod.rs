//! A device: its ids, its context, and the threads that hold it.
//!
//! Contexts are bound to threads. Each device has one thread that posts, one for copies between host and device, and
//! a few, started on demand, for what may take seconds: connects and destroys, which never run where transfers are posted.
//! All sleep when there is nothing to do.

mod bound;
mod ids;
mod lane;

use std::collections::BTreeMap;
use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::{Arc, Mutex, PoisonError};

use ascend_sys::acl;
use crossbeam_channel::bounded;
use ropeway_core::{Error, ErrorKind, Result};
use ropeway_transport::memory::fork::Origin;

use crate::cann::Cann;
use crate::node::Chip;
use bound::Core;
pub use bound::{Bound, Entered};
pub use ids::Ids;
use lane::{Lane, LaneConfig};

/// Jobs that may wait to be posted.
const POST_QUEUE_MAX: usize = 4096;
/// Copies between host and device that may wait.
const COPY_QUEUE_MAX: usize = 1024;
/// Connects that may wait.
const SLOW_QUEUE_MAX: usize = 1024;

/// Which of a device's threads.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Work {
    /// Posts transfers: one thread, which nothing may block.
    Post,
    /// Copies between host and device, and short native calls: one thread.
    Copy,
    /// Connects, registers, destroys: a few threads, any of which may be stuck for minutes.
    Slow,
}

/// A device that this process uses. It is never reset, and CANN is never finalised: others in the process use both.
///
/// # Fork
/// In a forked child calls return `Forked` and drops do nothing.
pub struct Device {
    core: Arc<Core>,
    ids: Ids,
    lanes: ManuallyDrop<Lanes>,
    origin: Origin,
    /// Pinned host memory of ours: length by address.
    pinned: Mutex<BTreeMap<usize, usize>>,
}

struct Lanes {
    post: Lane,
    copy: Lane,
    slow: Lane,
}

impl Device {
    /// Opens the device with the given user id: what `aclrtSetDevice` takes, the index after
    /// `ASCEND_RT_VISIBLE_DEVICES`. Blocks, for seconds when it is the first in the process.
    ///
    /// # Errors
    /// `Unsupported`: there is no such device. `Resource`: it is lost, or no thread is to be had.
    pub fn open(cann: &'static Cann, user_id: u32, slow_threads: usize) -> Result<Arc<Self>> {
        let origin = Origin::here()?;
        let count = cann.device_count()?;
        let number = i32::try_from(user_id).ok().filter(|_| user_id < count).ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "open device",
                format!("no device {user_id}: this process sees {count}; check ASCEND_RT_VISIBLE_DEVICES"),
            )
        })?;
        let core = Arc::new(Core::new(cann, number));
        let lane = |name, threads_max, queue_max, stays| {
            Lane::new(LaneConfig { name, threads_max, queue_max, stays }, core.clone())
        };
        let lanes = Lanes {
            post: lane("post", 1, POST_QUEUE_MAX, true),
            copy: lane("copy", 1, COPY_QUEUE_MAX, false),
            slow: lane("slow", slow_threads.max(1), SLOW_QUEUE_MAX, false),
        };
        let mut device = Self {
            core,
            ids: Ids::unknown(user_id),
            lanes: ManuallyDrop::new(lanes),
            origin,
            pinned: Mutex::default(),
        };
        let core = device.core.clone();
        device.ids = device.call(Work::Post, "open device", move |on| {
            core.set_device()?;
            Ok::<_, Error>(Ids::read(on))
        })??;
        tracing::debug!(ids = ?device.ids, soc = cann.soc_name(), "opened an NPU");
        Ok(Arc::new(device))
    }

    /// Its ids.
    pub fn ids(&self) -> &Ids {
        &self.ids
    }

    /// The user id, by which the process names it.
    pub fn user_id(&self) -> u32 {
        self.ids.user
    }

    /// The CANN that it was opened with.
    pub fn cann(&self) -> &'static Cann {
        self.core.cann()
    }

    /// AscendCL's functions. Most need a context: see [`Bound`].
    pub fn acl(&self) -> &'static acl::Api {
        self.core.acl()
    }

    /// What kind of chip.
    pub fn chip(&self) -> Chip {
        self.cann().chip()
    }

    /// The process that opened it.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Runs `job` on one of the device's threads, soon; returns at once. Jobs for `Post` and for `Copy` run in order.
    ///
    /// # Errors
    /// `Full`: too many wait. `Resource`: no thread is to be had. `Forked`. The job is dropped then.
    pub fn run(
        &self,
        work: Work,
        operation: &'static str,
        job: impl FnOnce(&Bound<'_>) + Send + 'static,
    ) -> Result<()> {
        self.origin.check(operation)?;
        self.lane(work).push(operation, Box::new(job))
    }

    /// Runs `job` on one of the device's threads and waits for what it gives. On a thread of the device: runs it there.
    ///
    /// # Errors
    /// As [`Self::run`]; `Internal` when the job panicked.
    pub fn call<R: Send + 'static>(
        &self,
        work: Work,
        operation: &'static str,
        job: impl FnOnce(&Bound<'_>) -> R + Send + 'static,
    ) -> Result<R> {
        self.origin.check(operation)?;
        if let Some(bound) = self.core.bound_here() {
            return Ok(job(&bound));
        }
        let (reply, answer) = bounded(1);
        self.run(work, operation, move |on| {
            // The caller waits, so this finds room and a receiver.
            let _ = reply.send(job(on));
        })?;
        answer.recv().map_err(|_| {
            Error::new(ErrorKind::Internal, operation, "a call on the device's thread panicked; see the log")
        })
    }

    /// Runs what destroys a native object on a slow thread, whatever waits there. For drops: does nothing in a forked
    /// child, and leaks what the job holds when no thread is to be had.
    pub fn retire(&self, what: &'static str, job: impl FnOnce(&Bound<'_>) + Send + 'static) {
        if self.origin.is_foreign() {
            std::mem::forget(job);
            return;
        }
        if let Err(error) = self.lanes.slow.push_unbounded(what, Box::new(job)) {
            tracing::error!(%error, what, "a native object is leaked");
        }
    }

    /// Gives the calling thread the device's context until the guard is dropped.
    ///
    /// # Errors
    /// The context cannot be installed: the device is lost. `Forked`.
    pub fn enter(&self) -> Result<Entered<'_>> {
        self.origin.check("enter device")?;
        self.core.enter()
    }

    /// Makes the calling thread, one of a transport's own, a thread of this device for good. Again is cheap.
    ///
    /// # Errors
    /// As [`Self::enter`].
    pub fn adopt_thread(&self) -> Result<Bound<'_>> {
        self.origin.check("adopt thread")?;
        self.core.adopt_thread()
    }

    /// The proof that the calling thread is one of this device: of its own, or adopted.
    pub fn bound(&self) -> Option<Bound<'_>> {
        self.core.bound_here()
    }

    /// # Errors
    /// `ApiMisuse`: `on` is the context of another device.
    pub(crate) fn check_bound(&self, operation: &'static str, on: &Bound<'_>) -> Result<()> {
        if on.is_of(&self.core) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::ApiMisuse,
            operation,
            format!("the thread has the context of device {}, not of {}", on.user_id(), self.user_id()),
        ))
    }

    /// Whether the device answers and calls itself well. `None` when this release does not tell.
    pub fn is_well(&self) -> Option<bool> {
        let health = self.acl().health.as_ref()?;
        let mut status = acl::ACL_RT_DEVICE_STATUS_END;
        // SAFETY: writes one integer to a local.
        let code = unsafe { (health.aclrtQueryDeviceStatus)(self.core.user_id(), &mut status) };
        Some(code == 0 && status == acl::ACL_RT_DEVICE_STATUS_NORMAL)
    }

    /// Whether `len` bytes of host memory at `address` are pinned memory that was allocated with this device: fit for
    /// asynchronous copies.
    pub fn is_pinned(&self, address: usize, len: u64) -> bool {
        let pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((base, bytes)) = pinned.range(..=address).next_back() else { return false };
        let before = address - base;
        (*bytes as u64).checked_sub(before as u64).is_some_and(|room| len <= room)
    }

    pub(crate) fn remember_pinned(&self, address: usize, len: usize) {
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner).insert(address, len);
    }

    pub(crate) fn forget_pinned(&self, address: usize) {
        if !self.origin.is_foreign() {
            self.pinned.lock().unwrap_or_else(PoisonError::into_inner).remove(&address);
        }
    }

    fn lane(&self, work: Work) -> &Lane {
        match work {
            Work::Post => &self.lanes.post,
            Work::Copy => &self.lanes.copy,
            Work::Slow => &self.lanes.slow,
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // In a forked child the lanes' locks may be held by threads that do not exist here.
        if !self.origin.is_foreign() {
            // SAFETY: dropped once, here, and not used after.
            unsafe { ManuallyDrop::drop(&mut self.lanes) };
        }
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("ids", &self.ids).finish_non_exhaustive()
    }
}
