//! One peer on the same host: requests are copies on streams.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;
use std::time::Duration;

use ascend_sys::acl;
use bytes::{BufMut, Bytes, BytesMut};
use ropeway_core::{Error, ErrorKind, Op, RegionId, Result};
use ropeway_transport::Memory;

use super::Ipc;
use super::keys::{Given, Key, bound, close, open, read_key, within};
use super::neighbours::Lent;
use super::offer::Offer;
use super::process::Process;
use super::rows::{Rows, rows};
use crate::device::{Bound, Device};
use crate::error::{Class, Code, Library, acl_class, check};
use crate::hbm::HbmMemory;
use crate::link::{Busy, Connected, Desc, Failure, Imported, Mover, Polled, PostError, Request, Teardown};
use crate::slots::{Slot, Slots};
use crate::stage::Direct;
use crate::stream::{Way, has_passed};

/// Forms of a description.
const BY_NAME: u8 = 0;
const BY_KEY: u8 = 1;

pub(super) struct IpcMover {
    device: Arc<Device>,
    check_process: bool,
    slots: Arc<Slots>,
    peer: Offer,
    /// The peer is an engine of this process: addresses are good for both.
    neighbour: bool,
    other_device: bool,
    process: Option<Process>,
    /// Our regions that this peer has a key of, or a name.
    registered: HashMap<RegionId, Registered>,
    /// The peer's regions that were opened by key.
    imported: HashMap<RegionId, Key>,
    flying: HashMap<u64, Flying>,
    next: u64,
    /// Something was posted of which nothing can be known.
    lost: bool,
    /// This release, or the pair of devices, has no strided copies.
    plain_only: bool,
}

/// A region of ours, kept until it is deregistered.
enum Registered {
    /// A neighbour uses it by its address, which the process's own table tells.
    ByName(#[expect(dead_code, reason = "held for its drop")] Lent),
    ByKey(Given),
}

struct Flying {
    slot: Slot,
    /// A copy was refused after others had been submitted.
    failed: Option<i32>,
}

impl IpcMover {
    pub(super) fn new(ipc: &Ipc, peer: Offer, neighbour: bool, process: Option<Process>) -> Self {
        Self {
            device: ipc.npu.device().clone(),
            check_process: ipc.config.check_process,
            slots: ipc.slots.clone(),
            other_device: !peer.is_same_device(&ipc.offer),
            peer,
            neighbour,
            process,
            registered: HashMap::new(),
            imported: HashMap::new(),
            flying: HashMap::new(),
            next: 0,
            lost: false,
            plain_only: ipc.npu.device().acl().memcpy_2d.is_none(),
        }
    }

    /// Lets our device reach the neighbour's.
    fn enable_peer_access(&self, on: &Bound<'_>) -> Result<()> {
        let Some(access) = &on.acl().peer_access else { return Ok(()) };
        let (ours, theirs) = (on.user_id(), self.peer.user.cast_signed());
        let mut can = 0;
        // SAFETY: writes one integer to a local.
        let code = unsafe { (access.aclrtDeviceCanAccessPeer)(&mut can, ours, theirs) };
        check(on.acl(), code, "peer access", || format!("from device {ours} to {theirs}"))?;
        if can != 1 {
            let text = format!("device {ours} cannot reach the memory of device {theirs}");
            return Err(Error::new(ErrorKind::Unsupported, "peer access", text));
        }
        // SAFETY: plain arguments.
        let code = unsafe { (access.aclrtDeviceEnablePeerAccess)(theirs, 0) };
        if code != 0 && Code::of(Library::Acl, code).class == Class::Repeated {
            return Ok(());
        }
        check(on.acl(), code, "peer access", || format!("from device {ours} to {theirs}"))
    }

    /// Submits what the rows say. `Ok(false)`: strided copies are not to be had after all.
    fn submit(&self, on: &Bound<'_>, slot: &Slot, op: Op, rows: &Rows) -> Result<bool> {
        let (local, remote) = ((rows.first.local, rows.local_pitch), (rows.first.remote, rows.remote_pitch));
        let ((to, to_pitch), (from, from_pitch)) = match op {
            Op::Read => (local, remote),
            Op::Write => (remote, local),
        };
        let width = rows.first.len;
        if rows.rows == 1 {
            // SAFETY: both ranges lie in a registered and an imported region, which the engine checked and keeps until this
            // request was reported as over.
            unsafe { slot.stream.copy(on, to, from, width, Way::Device) }?;
            return Ok(true);
        }
        let Some(strided) = &on.acl().memcpy_2d else { return Ok(false) };
        // SAFETY: as above, for every row; the pitches are no less than the width.
        let code = unsafe {
            (strided.aclrtMemcpy2dAsync)(
                to as *mut c_void,
                to_pitch as usize,
                from as *const c_void,
                from_pitch as usize,
                width as usize,
                rows.rows,
                acl::ACL_MEMCPY_DEVICE_TO_DEVICE,
                slot.stream.raw(),
            )
        };
        if code != 0 && Code::of(Library::Acl, code).class == Class::Unsupported {
            return Ok(false);
        }
        check(on.acl(), code, "copy", || format!("{} rows of {width} bytes", rows.rows)).map(|()| true)
    }

    /// Submits all; gives how many calls went through, and what stopped them.
    fn submit_all(&mut self, on: &Bound<'_>, slot: &Slot, op: Op, descs: &[Desc]) -> (usize, Option<Error>) {
        let (mut at, mut calls) = (0, 0);
        while at < descs.len() {
            let some = if self.plain_only { rows(&descs[at..=at]) } else { rows(&descs[at..]) };
            match self.submit(on, slot, op, &some) {
                Ok(true) => {
                    at += some.rows;
                    calls += 1;
                }
                Ok(false) => self.plain_only = true,
                Err(error) => return (calls, Some(error)),
            }
        }
        (calls, None)
    }
}

// SAFETY: `Done` and `Over` are said after the stream's event fired and a wait said that the stream has passed all, or when
// nothing was submitted; `Proven` after such a wait for every stream with work of this mover. A copy on a stream touches no memory
// after its stream has passed it, and only requests of this mover are on the streams that it holds.
unsafe impl Mover for IpcMover {
    fn register(&mut self, region: RegionId, memory: &Arc<Memory>) -> Result<Bytes> {
        let Some(hbm) = HbmMemory::of(memory) else {
            let text = format!("region {region} is host memory, which ipc takes through a stage only");
            return Err(Error::new(ErrorKind::Unsupported, "register", text));
        };
        let mut out = BytesMut::new();
        let registered = if self.neighbour {
            let lent = Lent::new(hbm.begin(), memory)?;
            out.put_u8(BY_NAME);
            out.put_u64_le(0);
            out.put_slice(lent.name());
            Registered::ByName(lent)
        } else {
            let pid = self.check_process.then_some(self.peer.bare_tgid);
            let given = Given::new(&bound(&self.device)?, memory, pid)?;
            out.put_u8(BY_KEY);
            out.put_u64_le(given.offset);
            out.put_slice(&given.key);
            Registered::ByKey(given)
        };
        self.registered.insert(region, registered);
        Ok(out.freeze())
    }

    fn deregister(&mut self, region: RegionId) -> Result<()> {
        match self.registered.remove(&region) {
            Some(Registered::ByKey(given)) => given.take_back(&bound(&self.device)?),
            Some(Registered::ByName(_)) | None => Ok(()),
        }
    }

    fn import(&mut self, region: RegionId, len: u64, description: &[u8]) -> Result<Imported> {
        let malformed =
            || Error::new(ErrorKind::Protocol, "import", format!("the peer's region {region} is malformed"));
        let (&form, rest) = description.split_first().ok_or_else(malformed)?;
        let (word, rest) = rest.split_first_chunk().ok_or_else(malformed)?;
        let word = u64::from_le_bytes(*word);
        let base = match form {
            BY_NAME if self.neighbour && word == 0 => {
                let name = rest.try_into().map_err(|_| malformed())?;
                Lent::find(name, len).ok_or_else(malformed)?
            }
            BY_KEY if !self.neighbour => {
                let key = read_key(rest).ok_or_else(malformed)?;
                let on = bound(&self.device)?;
                let first = open(&on, &key, self.other_device)?;
                let Some(base) = within(&on, first, word, len) else {
                    // Not to be said to be withdrawn while it is open here.
                    close(&on, &key)?;
                    return Err(malformed());
                };
                self.imported.insert(region, key);
                base
            }
            _ => return Err(malformed()),
        };
        base.checked_add(len).ok_or_else(malformed)?;
        Ok(Imported { base })
    }

    fn release(&mut self, region: RegionId) -> Result<()> {
        let Some(key) = self.imported.remove(&region) else { return Ok(()) };
        close(&bound(&self.device)?, &key)
    }

    fn connect(&mut self, _: Duration) -> Result<Connected> {
        let on = bound(&self.device)?;
        self.slots.stock(&on)?;
        if self.neighbour && self.other_device {
            self.enable_peer_access(&on)?;
        }
        Ok(Connected::New)
    }

    fn disconnect(&mut self, timeout: Duration) -> Teardown {
        let device = self.device.clone();
        let Ok(on) = bound(&device) else {
            return if self.flying.is_empty() && !self.lost { Teardown::Proven } else { Teardown::Never };
        };
        for (_, Flying { slot, .. }) in self.flying.drain() {
            if slot.drain(&on, timeout) {
                self.slots.retire(slot);
            } else {
                self.lost = true;
                self.slots.lose(slot);
            }
        }
        // A copy within this host is no network's: there is no time after which it is over.
        if self.lost { Teardown::Never } else { Teardown::Proven }
    }

    fn post(&mut self, op: Op, descs: &[Desc]) -> Result<Request, PostError> {
        let device = self.device.clone();
        let Some(on) = device.bound() else {
            return Err(PostError::Failed(Failure::Over { code: acl::ACL_ERROR_RT_CONTEXT_NULL }));
        };
        let Some(slot) = self.slots.take() else { return Err(PostError::Busy(Busy { code: 0 })) };
        let (calls, failed) = self.submit_all(&on, &slot, op, descs);
        let failed = failed.map(|error| (error.native().unwrap_or(0), acl_class(&error)));
        if let (0, Some((code, class))) = (calls, failed) {
            self.slots.give(slot);
            return Err(match class {
                Some(Class::Exhausted | Class::NoStreams | Class::NoEvents) => PostError::Busy(Busy { code }),
                _ => PostError::Failed(Failure::Over { code }),
            });
        }
        let recorded = slot.stream.record(&on, &slot.event);
        let id = self.next;
        self.next += 1;
        self.flying.insert(id, Flying { slot, failed: failed.map(|(code, _)| code) });
        match recorded {
            Ok(()) => Ok(Request(id)),
            // Copies are on the stream, and nothing will tell their end: `disconnect` drains it.
            Err(error) => Err(PostError::Failed(Failure::Latched { code: error.native().unwrap_or(0) })),
        }
    }

    fn poll(&mut self, request: Request) -> Polled {
        let latched = |code: Option<i32>| Polled::Failed(Failure::Latched { code: code.unwrap_or(0) });
        let device = self.device.clone();
        let Some(on) = device.bound() else { return latched(None) };
        let Some(flying) = self.flying.get(&request.0) else { return latched(None) };
        match flying.slot.event.has_fired(&on) {
            Ok(false) => return Polled::Waiting,
            Ok(true) => {}
            Err(error) => return latched(error.native()),
        }
        // The event was the last on the stream, so this returns at once; it is what tells whether a copy failed.
        let waited = flying.slot.stream.wait(&on, Duration::from_millis(100));
        let passed = has_passed(&waited);
        if let Err(error) = waited {
            if !passed {
                return latched(error.native());
            }
            if let Some(Flying { slot, .. }) = self.flying.remove(&request.0) {
                self.slots.retire(slot);
            }
            return Polled::Failed(Failure::Over { code: error.native().unwrap_or(0) });
        }
        let Some(Flying { slot, failed }) = self.flying.remove(&request.0) else {
            return latched(None);
        };
        self.slots.give(slot);
        failed.map_or(Polled::Done, |code| Polled::Failed(Failure::Over { code }))
    }

    fn is_peer_gone(&mut self) -> bool {
        self.process.as_mut().is_some_and(Process::is_gone)
    }

    fn explain(&self, code: i32) -> Error {
        Code::of(Library::Acl, code).error("ipc", "a copy between NPUs", None)
    }
}

impl Direct for IpcMover {
    fn takes(&self, memory: &Arc<Memory>) -> bool {
        HbmMemory::of(memory).is_some()
    }
}

impl Drop for IpcMover {
    fn drop(&mut self) {
        // After `disconnect` there is none. Before, the engine knows nothing of their end.
        for (_, flying) in self.flying.drain() {
            self.slots.lose(flying.slot);
        }
        // Keys that were not closed keep their memory: a peer may have it mapped.
        for (_, registered) in self.registered.drain() {
            if let Registered::ByKey(given) = registered {
                std::mem::forget(given);
            }
        }
    }
}
