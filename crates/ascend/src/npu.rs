//! One NPU as the engine uses it: its device, its memory, its events.

mod config;
mod copy;
mod rearrange;
mod transports;

use std::any::Any;
use std::ffi::c_void;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use ropeway_core::{Error, ErrorKind, Limits, Result};
use ropeway_transport::{Janitor, Memory};

use crate::cann::Cann;
use crate::device::{Device, Work};
use crate::event::{Event, EventPoller, WatchId};
use crate::hbm::{Bounce, HbmMemory};
use crate::node::Identity;
use crate::pinned;
use crate::staging::Staging;
use crate::stream::Stream;
pub use config::NpuConfig;

/// An NPU that an engine has opened.
pub struct Npu {
    config: NpuConfig,
    identity: Identity,
    device: Arc<Device>,
    events: EventPoller,
    bounce: Arc<Bounce>,
    janitor: Janitor,
    /// The stream on which arrivals are recorded; made with the first.
    arrivals: Mutex<Option<Arc<Stream>>>,
    /// Made with the first copy between host and device.
    staging: Mutex<Option<Staging>>,
}

impl Npu {
    /// Opens CANN and the device. Blocks, for seconds when it is the first in the process.
    ///
    /// # Errors
    /// `Unsupported`: there is no CANN, and what to set, or no such device. `ApiMisuse`: the configuration is wrong.
    /// `Resource`: the device is lost, or no thread is to be had.
    pub fn open(config: NpuConfig, limits: &Limits, janitor: &Janitor) -> Result<Arc<Self>> {
        config.validate()?;
        let cann = Cann::open(config.cann_path())?;
        let device = Device::open(cann, config.device(), config.slow_threads())?;
        let super_pod = device.ids().super_pod.map(|pod| u64::from(pod.id));
        let identity = Identity::find(config.node(), super_pod, config.machine())?;
        if let Some(warning) = &identity.warning {
            tracing::warn!(warning, "the node's name may not be its own");
        }
        // Each transfer starts after one event at most, and each lease is pending for one.
        let watched_max = limits.transfers() as usize + limits.leases() as usize;
        Ok(Arc::new(Self {
            identity,
            events: EventPoller::new(device.clone(), watched_max, janitor),
            bounce: Bounce::new(device.clone(), janitor),
            janitor: janitor.clone(),
            arrivals: Mutex::new(None),
            staging: Mutex::new(None),
            device,
            config,
        }))
    }

    /// How it was opened.
    pub fn config(&self) -> &NpuConfig {
        &self.config
    }

    /// Which node and which HCCS island it belongs to.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The device: ids, threads, native functions.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// The CANN that was opened.
    pub fn cann(&self) -> &'static Cann {
        self.device.cann()
    }

    /// Where memory is let go.
    pub fn janitor(&self) -> &Janitor {
        &self.janitor
    }

    /// Allocates memory of the device with pages of 2 MiB, so that every link can use it; its contents are not set.
    /// Blocks.
    ///
    /// # Errors
    /// `ApiMisuse` for no bytes; `Resource` when the device has not so much left.
    pub fn alloc(&self, bytes: u64) -> Result<Arc<Memory>> {
        let memory = HbmMemory::alloc(&self.device, bytes, self.bounce.clone())?;
        Memory::of_device(Arc::new(memory), &self.janitor)
    }

    /// Makes memory of the device that somebody else has allocated (torch_npu) usable, after finding out its kind: see
    /// [`HbmMemory::found`]. Blocks. `keep_alive` is dropped on the janitor's thread, also after an error.
    ///
    /// # Errors
    /// `ApiMisuse`: the range is no range, host memory, or another device's.
    ///
    /// # Safety
    /// Until `keep_alive` is dropped, `address..address + bytes` stays mapped on the device, readable and writable, with
    /// the same physical backing, but between [`HbmMemory::suspend`] and [`HbmMemory::resume`]. Peers may read and write
    /// it at any time.
    pub unsafe fn register(
        &self,
        address: u64,
        bytes: u64,
        keep_alive: Box<dyn Any + Send>,
    ) -> Result<Arc<Memory>> {
        let bounce = self.bounce.clone();
        // SAFETY: passed on.
        let memory =
            unsafe { HbmMemory::foreign(&self.device, address, bytes, keep_alive, bounce, &self.janitor) }?;
        Memory::of_device(Arc::new(memory), &self.janitor)
    }

    /// Allocates pinned host memory: ordinary memory to the engine, and the fastest for copies to and from the device.
    /// Blocks.
    ///
    /// # Errors
    /// `ApiMisuse` for no bytes; `Resource` when there is not so much.
    pub fn alloc_pinned(&self, bytes: u64) -> Result<Arc<Memory>> {
        pinned::alloc(&self.device, bytes, &self.janitor)
    }

    /// Calls `done` once after `event`, recorded on a compute stream before, has fired, or with why it never will.
    /// `done` runs on the poller's thread and must not block. `keep_alive` is dropped on the janitor's thread after it.
    ///
    /// # Errors
    /// `Full`: too many are watched. `Resource`: no thread is to be had.
    ///
    /// # Safety
    /// `event` is an `aclrtEvent` of this process and device, recorded before, and stays one until `keep_alive` is dropped.
    pub unsafe fn watch(
        &self,
        event: *mut c_void,
        keep_alive: Box<dyn Any + Send>,
        done: impl FnOnce(Result<()>) + Send + 'static,
    ) -> Result<WatchId> {
        // SAFETY: passed on.
        unsafe { self.events.watch(event, keep_alive, done) }
    }

    /// Watches an event no longer: its callback gets `Cancelled`, soon, unless it was called already.
    pub fn give_up(&self, id: WatchId) {
        self.events.give_up(id);
    }

    /// An event for a consumer's stream to wait for (`aclrtStreamWaitEvent`), recorded now on a stream of the engine's:
    /// called when a transfer has ended, it orders the consumer's kernels after the bytes. Keep it until the consumer's
    /// stream has passed the wait. Blocks, for a moment.
    ///
    /// # Errors
    /// `Full`: the device has no stream or event left. `Resource`: it is lost.
    pub fn arrival(&self) -> Result<Event> {
        let made = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let device = self.device.clone();
        let (stream, event) = self.device.call(Work::Copy, "record arrival", move |on| {
            let stream = match made {
                Some(stream) => stream,
                None => Arc::new(Stream::create(&device, on)?),
            };
            let event = Event::create(&device, on)?;
            stream.record(on, &event)?;
            Ok::<_, Error>((stream, event))
        })??;
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(stream);
        Ok(event)
    }

    /// Sleep mode is about to take the physical memory away: host access to `memory` is refused from here on. Links must
    /// have let go of it before.
    ///
    /// # Errors
    /// `ApiMisuse`: it is no memory of an NPU.
    pub fn suspend(&self, memory: &Memory) -> Result<()> {
        hbm(memory, "suspend")?.suspend();
        Ok(())
    }

    /// The memory is back: finds out its kind anew. Blocks.
    ///
    /// # Errors
    /// `ApiMisuse`: it is no memory of an NPU, or not back; it stays suspended then.
    pub fn resume(&self, memory: &Memory) -> Result<()> {
        hbm(memory, "resume")?.resume()
    }
}

fn hbm<'m>(memory: &'m Memory, operation: &'static str) -> Result<&'m HbmMemory> {
    HbmMemory::of(memory).ok_or_else(|| {
        Error::new(ErrorKind::ApiMisuse, operation, "this is host memory; only memory of an NPU sleeps")
    })
}

impl fmt::Debug for Npu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Npu")
            .field("device", &self.device)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}
