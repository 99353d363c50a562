//! Opaque handles: numbers that look like pointers, never used twice, each of one kind.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use crate::fail::{Done, Fail, code};

/// The live objects of one kind.
#[derive(Debug)]
pub struct Handles<T> {
    kind: &'static str,
    /// Upper bits of the handles of this kind: one of another kind is not found here.
    tag: usize,
    table: OnceLock<RwLock<Table<T>>>,
}

type Table<T> = (usize, HashMap<usize, Arc<T>>);

impl<T> Handles<T> {
    /// None yet. `tag` differs between kinds.
    #[must_use]
    pub const fn new(kind: &'static str, tag: u8) -> Self {
        Self { kind, tag: (tag as usize) << 40, table: OnceLock::new() }
    }

    fn table(&self) -> &RwLock<Table<T>> {
        self.table.get_or_init(|| RwLock::new((0, HashMap::new())))
    }

    /// Adds an object that learns its handle as it is made.
    pub fn add(&self, make: impl FnOnce(usize) -> T) -> Arc<T> {
        let mut table = self.table().write().unwrap_or_else(PoisonError::into_inner);
        table.0 += 1;
        let handle = self.tag + table.0 * 64;
        let object = Arc::new(make(handle));
        table.1.insert(handle, object.clone());
        object
    }

    /// Finds an object.
    ///
    /// # Errors
    /// INVALID_HANDLE when it is not there, or no longer.
    pub fn get(&self, handle: usize) -> Done<Arc<T>> {
        let table = self.table().read().unwrap_or_else(PoisonError::into_inner);
        table.1.get(&handle).cloned().ok_or_else(|| self.stale(handle))
    }

    /// Ends a handle.
    ///
    /// # Errors
    /// INVALID_HANDLE when it is not there, or no longer.
    pub fn remove(&self, handle: usize) -> Done<Arc<T>> {
        let mut table = self.table().write().unwrap_or_else(PoisonError::into_inner);
        table.1.remove(&handle).ok_or_else(|| self.stale(handle))
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<T>> {
        self.table().read().unwrap_or_else(PoisonError::into_inner).1.values().cloned().collect()
    }

    fn stale(&self, handle: usize) -> Fail {
        Fail::new(code::RT_INVALID_HANDLE, format!("{handle:#x} is no live {}", self.kind))
    }
}
