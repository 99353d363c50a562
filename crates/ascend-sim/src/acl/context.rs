//! Contexts.

use crate::context::{self, CONTEXTS};
use crate::ffi::Out;

use super::{init, stream};

crate::export! {
    /// `aclrtCreateContext`: makes one and binds the thread to it.
    fn sim_aclrtCreateContext(handle: Out<usize>, device: i32) {
        handle.check()?;
        init::initialised()?;
        handle.set(context::create(device)?)
    }

    /// `aclrtDestroyContext`.
    fn sim_aclrtDestroyContext(handle: usize) {
        context::destroy(handle)
    }

    /// `aclrtSetCurrentContext`: binds the thread.
    fn sim_aclrtSetCurrentContext(handle: usize) {
        let context = CONTEXTS.get(handle)?;
        context::bind(Some(context));
        Ok(())
    }

    /// `aclrtGetCurrentContext`.
    fn sim_aclrtGetCurrentContext(handle: Out<usize>) {
        handle.set(context::current()?.handle)
    }

    /// `aclrtCtxGetCurrentDefaultStream`.
    fn sim_aclrtCtxGetCurrentDefaultStream(handle: Out<usize>) {
        handle.set(stream::find(0)?.handle)
    }
}
