//! The proof that a thread has a device's context.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr::null_mut;
use std::sync::OnceLock;

use ascend_sys::acl;
use ropeway_core::{Error, ErrorKind, Result};

use crate::cann::Cann;
use crate::error::check;

/// What every thread of a device knows of it.
pub(super) struct Core {
    cann: &'static Cann,
    user_id: i32,
    /// The device's default context, as a number: set once, before anything else runs.
    context: OnceLock<usize>,
}

thread_local! {
    /// The core whose context the thread holds on behalf of a lane, as a number.
    static ON: Cell<usize> = const { Cell::new(0) };
}

/// The calling thread has the context of a device. Native objects are made with it, and only with it.
///
/// Not `Send`: a context belongs to a thread.
pub struct Bound<'d> {
    core: &'d Core,
    not_send: PhantomData<*mut ()>,
}

impl Core {
    pub(super) fn new(cann: &'static Cann, user_id: i32) -> Self {
        Self { cann, user_id, context: OnceLock::new() }
    }

    pub(super) fn user_id(&self) -> i32 {
        self.user_id
    }

    pub(super) fn cann(&self) -> &'static Cann {
        self.cann
    }

    pub(super) fn acl(&self) -> &'static acl::Api {
        self.cann.acl()
    }

    /// Makes the device current on this thread for the first time and keeps its context. Takes seconds in a new process.
    pub(super) fn set_device(&self) -> Result<()> {
        let api = self.acl();
        // SAFETY: plain arguments.
        let code = unsafe { (api.aclrtSetDevice)(self.user_id) };
        check(api, code, "open device", || format!("device {} cannot be set", self.user_id))?;
        let mut context: acl::aclrtContext = null_mut();
        // SAFETY: writes one pointer to a local.
        let code = unsafe { (api.aclrtGetCurrentContext)(&mut context) };
        check(api, code, "open device", || format!("device {} has no context", self.user_id))?;
        if context.is_null() {
            return Err(Error::new(
                ErrorKind::Internal,
                "open device",
                format!("device {} gave a null context", self.user_id),
            ));
        }
        self.context.get_or_init(|| context as usize);
        Ok(())
    }

    /// Installs the context on a thread of the device. When that fails, the job's own native calls fail with the
    /// library's code for a thread without a context.
    pub(super) fn bind_thread(&self) -> Bound<'_> {
        ON.set(std::ptr::from_ref(self) as usize);
        if let Err(error) = self.install() {
            tracing::error!(%error, device = self.user_id, "the device's context cannot be installed");
        }
        Bound { core: self, not_send: PhantomData }
    }

    /// Gives the calling thread the context for good.
    pub(super) fn adopt_thread(&self) -> Result<Bound<'_>> {
        self.install()?;
        ON.set(std::ptr::from_ref(self) as usize);
        Ok(Bound { core: self, not_send: PhantomData })
    }

    /// For a thread of this device, or for nothing.
    pub(super) fn bound_here(&self) -> Option<Bound<'_>> {
        (ON.get() == std::ptr::from_ref(self) as usize).then_some(Bound { core: self, not_send: PhantomData })
    }

    fn install(&self) -> Result<()> {
        let Some(context) = self.context.get() else { return Ok(()) };
        let api = self.acl();
        // SAFETY: the device's default context, which nothing of ours ever resets.
        let code = unsafe { (api.aclrtSetCurrentContext)(*context as acl::aclrtContext) };
        check(api, code, "install context", || format!("device {}", self.user_id))
    }

    /// Installs the context on a thread that is not the device's, until the guard is dropped.
    pub(super) fn enter(&self) -> Result<Entered<'_>> {
        let api = self.acl();
        let mut before: acl::aclrtContext = null_mut();
        // SAFETY: writes one pointer to a local. A thread without a context gives an error, and null stays.
        let code = unsafe { (api.aclrtGetCurrentContext)(&mut before) };
        let before = if code == 0 { before } else { null_mut() };
        self.install()?;
        Ok(Entered { bound: Bound { core: self, not_send: PhantomData }, before })
    }
}

impl<'d> Bound<'d> {
    /// The functions to call.
    pub fn acl(&self) -> &'static acl::Api {
        self.core.acl()
    }

    /// The CANN that was opened.
    pub fn cann(&self) -> &'static Cann {
        self.core.cann()
    }

    pub(super) fn is_of(&self, core: &Core) -> bool {
        std::ptr::eq(self.core, core)
    }

    /// The device's user id: the index after `ASCEND_RT_VISIBLE_DEVICES`.
    pub fn user_id(&self) -> i32 {
        self.core.user_id
    }
}

/// A thread of the caller's that holds the device's context for a while, and gets its own back. One that had none keeps
/// this one: CANN cannot take a context away.
pub struct Entered<'d> {
    bound: Bound<'d>,
    before: acl::aclrtContext,
}

impl<'d> std::ops::Deref for Entered<'d> {
    type Target = Bound<'d>;

    fn deref(&self) -> &Bound<'d> {
        &self.bound
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if self.before.is_null() {
            return;
        }
        // SAFETY: the thread's own context of before, which its owner had current all along.
        let code = unsafe { (self.bound.acl().aclrtSetCurrentContext)(self.before) };
        if code != 0 {
            tracing::error!(code, "a thread's former context could not be installed again");
        }
    }
}
