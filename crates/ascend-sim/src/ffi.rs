//! What the exported functions share: pointers of C callers as types, a guard that lets no panic out.

use std::ffi::{CStr, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::fail::{Done, Fail, code, note};

/// A pointer through which a C caller wants an answer: null, or valid for a write. One pointer wide.
#[repr(transparent)]
#[derive(Debug)]
pub struct Out<T>(*mut T);

/// A pointer to what a C caller hands over: null, or valid for reads for as long as the call. One pointer wide.
#[repr(transparent)]
#[derive(Debug)]
pub struct In<T>(*const T);

/// A C string of a caller: null, or zero-terminated.
pub type Text = In<c_char>;

impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Out<T> {}
impl<T> Clone for In<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for In<T> {}

impl<T> From<&mut T> for Out<T> {
    fn from(at: &mut T) -> Self {
        Self(at)
    }
}

impl<T> From<&mut [T]> for Out<T> {
    fn from(at: &mut [T]) -> Self {
        Self(at.as_mut_ptr())
    }
}

impl<T> From<&T> for In<T> {
    fn from(at: &T) -> Self {
        Self(at)
    }
}

impl<T> From<&[T]> for In<T> {
    fn from(at: &[T]) -> Self {
        Self(at.as_ptr())
    }
}

impl From<&CStr> for Text {
    fn from(text: &CStr) -> Self {
        Self(text.as_ptr())
    }
}

impl<T> Out<T> {
    /// The null pointer.
    #[must_use]
    pub const fn null() -> Self {
        Self(std::ptr::null_mut())
    }

    /// Whether the caller wants no answer.
    #[must_use]
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// Answers.
    ///
    /// # Errors
    /// INVALID_PARAM when the pointer is null.
    pub fn set(self, value: T) -> Done {
        self.set_at(0, value)
    }

    /// Answers with the element `index` of an array that the caller said is that long.
    ///
    /// # Errors
    /// INVALID_PARAM when the pointer is null.
    pub fn set_at(self, index: usize, value: T) -> Done {
        self.check()?;
        let at = self.0.wrapping_add(index);
        // SAFETY: not null, so valid for a write by the type's invariant.
        unsafe { at.write_unaligned(value) };
        Ok(())
    }

    /// What stands there now.
    ///
    /// # Errors
    /// INVALID_PARAM when the pointer is null.
    pub fn get(self) -> Done<T>
    where
        T: Copy,
    {
        In(self.0.cast_const()).get()
    }

    /// Refuses a null pointer, before anything is done.
    ///
    /// # Errors
    /// INVALID_PARAM when the pointer is null.
    pub fn check(self) -> Done {
        if self.0.is_null() { Err(null()) } else { Ok(()) }
    }
}

impl Out<c_char> {
    /// Writes a C string into a buffer of `room` bytes.
    ///
    /// # Errors
    /// INVALID_PARAM when the pointer is null or the text does not fit.
    pub fn set_text(self, text: &str, room: usize) -> Done {
        crate::fail::ensure(text.len() < room, code::INVALID_PARAM, || {
            format!("{text:?} needs more than {room} bytes")
        })?;
        for (index, byte) in text.bytes().chain([0]).enumerate() {
            self.set_at(index, byte as c_char)?;
        }
        Ok(())
    }
}

impl<T: Copy> In<T> {
    /// The null pointer.
    #[must_use]
    pub const fn null() -> Self {
        Self(std::ptr::null())
    }

    /// Whether nothing was handed over.
    #[must_use]
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// What stands there.
    ///
    /// # Errors
    /// INVALID_PARAM when the pointer is null.
    pub fn get(self) -> Done<T> {
        self.get_at(0)
    }

    /// The element `index` of an array that the caller said is that long.
    ///
    /// # Errors
    /// INVALID_PARAM when the pointer is null.
    pub fn get_at(self, index: usize) -> Done<T> {
        if self.0.is_null() {
            return Err(null());
        }
        let at = self.0.wrapping_add(index);
        // SAFETY: not null, so valid for reads by the type's invariant.
        Ok(unsafe { at.read_unaligned() })
    }

    /// The first `len` elements.
    ///
    /// # Errors
    /// INVALID_PARAM when the pointer is null and `len` is not 0.
    pub fn to_vec(self, len: usize) -> Done<Vec<T>> {
        (0..len).map(|index| self.get_at(index)).collect()
    }

    /// One to what a structure of the caller points at.
    ///
    /// # Safety
    /// `at` is null, or valid for reads for as long as the call.
    #[must_use]
    pub unsafe fn from_ptr(at: *const T) -> Self {
        Self(at)
    }

    /// The pointer.
    #[must_use]
    pub fn as_ptr(self) -> *const T {
        self.0
    }
}

impl Text {
    /// The text.
    ///
    /// # Errors
    /// INVALID_PARAM when it is null or no UTF-8.
    pub fn to_text(self) -> Done<String> {
        if self.0.is_null() {
            return Err(null());
        }
        // SAFETY: not null, so zero-terminated by the type's invariant.
        let text = unsafe { CStr::from_ptr(self.0) };
        let text = text.to_str().map_err(|_| Fail::new(code::INVALID_PARAM, "a text is no UTF-8"))?;
        Ok(text.to_owned())
    }
}

fn null() -> Fail {
    Fail::new(code::INVALID_PARAM, "a pointer is null")
}

/// Runs the body of an exported function: its error becomes the number returned, its sentence is kept for
/// `aclGetRecentErrMsg`; a panic becomes INTERNAL.
pub fn call(name: &str, body: impl FnOnce() -> Done) -> i32 {
    let result = catch_unwind(AssertUnwindSafe(|| scripted(name).and_then(|()| body())))
        .unwrap_or_else(|_| Err(Fail::new(code::INTERNAL, "the simulator panicked: a bug of the simulator")));
    match result {
        Ok(()) => 0,
        Err(fail) => {
            note(name, &fail);
            fail.code
        }
    }
}

/// What any call meets first: a forked child is refused; the faults `stall` and `refuse`.
fn scripted(name: &str) -> Done {
    crate::runtime::not_forked()?;
    let Some(runtime) = crate::runtime::opened() else { return Ok(()) };
    let op = name.strip_prefix("sim_").unwrap_or(name);
    let site = crate::fault::Site { op, ..Default::default() };
    if let Some(hit) = runtime.faults.hit("stall", site) {
        std::thread::sleep(hit.ms(100));
    }
    match runtime.faults.hit("refuse", site) {
        Some(hit) => Err(Fail::new(hit.code(code::RT_FEATURE_NOT_SUPPORT), "refused by the fault script")),
        None => Ok(()),
    }
}

/// Defines exported C functions that return AscendCL's error number. The body is a [`Done`](crate::Done).
///
/// Functions whose arguments are all wrappers of this module or plain numbers are safe to call from Rust; those that
/// read or write at addresses given as numbers are declared `unsafe fn` and say what they need.
#[macro_export]
macro_rules! export {
    ($( $(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) $body:block )*) => { $(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        pub extern "C" fn $name($($arg: $type),*) -> i32 {
            $crate::ffi::call(stringify!($name), move || $body)
        }
    )* };
}

/// As [`export!`](crate::export), for functions that read or write at addresses given as numbers.
#[macro_export]
macro_rules! export_raw {
    ($( $(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) $body:block )*) => { $(
        $(#[$doc])*
        ///
        /// # Safety
        ///
        /// Addresses that are not of device memory are host memory, readable or writable as far as the call says, and
        /// stay so until an asynchronous copy has passed its stream.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $type),*) -> i32 {
            $crate::ffi::call(stringify!($name), move || $body)
        }
    )* };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_null_pointer_is_refused_and_the_text_is_read_once() {
        let code = call("sim_x", || Out::<i32>::null().set(1));
        assert_eq!(code, code::INVALID_PARAM);
        let text = crate::fail::take_text();
        assert!(!text.is_null());
        // SAFETY: not null, and valid until the next call on this thread.
        let text = unsafe { CStr::from_ptr(text) }.to_str().unwrap().to_owned();
        assert!(text.contains("sim_x: a pointer is null (100000)"), "{text}");
        assert!(text.contains("simulated"), "{text}");
        assert!(crate::fail::take_text().is_null());
    }

    #[test]
    fn a_panic_does_not_leave_through_c() {
        assert_eq!(call("sim_x", || panic!("on purpose")), code::INTERNAL);
    }
}
