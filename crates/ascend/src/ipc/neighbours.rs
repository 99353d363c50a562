//! Memory that engines of one process use by its address.
//!
//! That a peer is in this process is only its own word. So an address never comes from a peer: the owner enters its region in a
//! table of the process under a name that is drawn for this link alone, and tells the peer the name. Who is in another process
//! finds nothing under it here, and can make us use nothing but what one of our engines gave to this very peer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ropeway_core::Result;
use ropeway_transport::Memory;

use super::offer::no_random;

/// Too long to be guessed.
pub(super) type Name = [u8; 16];

/// Address and length.
static TABLE: Mutex<Option<HashMap<Name, (u64, u64)>>> = Mutex::new(None);

/// A region in the table, until it is dropped.
pub(super) struct Lent {
    name: Name,
    #[expect(dead_code, reason = "held for its drop")]
    memory: Arc<Memory>,
}

impl Lent {
    pub(super) fn new(address: u64, memory: &Arc<Memory>) -> Result<Self> {
        let mut name = Name::default();
        getrandom::fill(&mut name).map_err(no_random)?;
        table().get_or_insert_default().insert(name, (address, memory.len()));
        Ok(Self { name, memory: Arc::clone(memory) })
    }

    pub(super) fn name(&self) -> &Name {
        &self.name
    }

    /// The address of what a neighbour has lent, when it has this length.
    pub(super) fn find(name: &Name, len: u64) -> Option<u64> {
        let (address, lent) = *table().as_ref()?.get(name)?;
        (lent == len).then_some(address)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(table) = table().as_mut() {
            table.remove(&self.name);
        }
    }
}

fn table() -> MutexGuard<'static, Option<HashMap<Name, (u64, u64)>>> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use ropeway_transport::Janitor;

    use super::*;

    #[test]
    fn a_name_is_good_for_its_length_as_long_as_it_is_lent() {
        let janitor = Janitor::start().unwrap();
        let memory = Memory::owner(vec![0u8; 64], &janitor).unwrap();
        let (one, two) = (Lent::new(0x1000, &memory).unwrap(), Lent::new(0x1000, &memory).unwrap());
        let (name, other) = (*one.name(), *two.name());
        assert_ne!(name, other, "each link has its own");
        assert_eq!(Lent::find(&name, 64), Some(0x1000));
        assert_eq!(Lent::find(&name, 65), None);
        assert_eq!(Lent::find(&[0; 16], 64), None);
        drop(one);
        assert_eq!(Lent::find(&name, 64), None);
        assert_eq!(Lent::find(&other, 64), Some(0x1000));
    }
}
