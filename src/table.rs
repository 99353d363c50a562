//! A bounded table of slots with generations: what public ids index.

use ropeway_core::{Error, ErrorKind, Result};

/// Slots are reused, generations are not; generation 0 is never handed out.
#[derive(Debug)]
pub(crate) struct Table<T> {
    what: &'static str,
    limit: u32,
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Table<T> {
    /// An empty table. `what` names the limit in errors.
    pub(crate) fn new(what: &'static str, limit: u32) -> Self {
        Self { what, limit, slots: Vec::new(), free: Vec::new() }
    }

    /// Takes a slot; `make` gets (slot, generation).
    pub(crate) fn insert_with(&mut self, make: impl FnOnce(u32, u32) -> T) -> Result<(u32, u32)> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if (self.slots.len() as u32) < self.limit => {
                self.slots.push(Slot { generation: 1, value: None });
                self.slots.len() as u32 - 1
            }
            None => {
                return Err(Error::new(
                    ErrorKind::Full,
                    "engine",
                    format!(
                        "all {} {} are taken; close some, or raise Limits::{}",
                        self.limit, self.what, self.what
                    ),
                ));
            }
        };
        let entry = &mut self.slots[slot as usize];
        entry.value = Some(make(slot, entry.generation));
        Ok((slot, entry.generation))
    }

    /// What an id names, unless it is of the past.
    pub(crate) fn at(&self, slot: u32, generation: u32) -> Option<&T> {
        self.slots.get(slot as usize).filter(|entry| entry.generation == generation)?.value.as_ref()
    }

    /// Frees the slot. A slot whose generations are used up is not used again.
    pub(crate) fn remove(&mut self, slot: u32, generation: u32) -> Option<T> {
        let entry = self.slots.get_mut(slot as usize).filter(|entry| entry.generation == generation)?;
        let value = entry.value.take()?;
        if let Some(next) = entry.generation.checked_add(1) {
            entry.generation = next;
            self.free.push(slot);
        } else {
            entry.generation = 0;
        }
        Some(value)
    }

    /// All that the table holds.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|entry| entry.value.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_the_past_names_nothing() {
        let mut table = Table::new("things", 1);
        let (slot, generation) = table.insert_with(|_, _| 'a').unwrap();
        assert_eq!(table.remove(slot, generation), Some('a'));
        let (again, next) = table.insert_with(|_, _| 'b').unwrap();
        assert_eq!(again, slot);
        assert_eq!(table.at(slot, generation), None);
        assert_eq!(table.remove(slot, generation), None);
        assert_eq!(table.at(again, next), Some(&'b'));
    }

    #[test]
    fn the_limit_is_a_typed_refusal() {
        let mut table = Table::new("things", 1);
        table.insert_with(|_, _| ()).unwrap();
        assert_eq!(table.insert_with(|_, _| ()).unwrap_err().kind(), ErrorKind::Full);
    }

    #[test]
    fn a_slot_with_no_generation_left_is_retired() {
        let mut table = Table::new("things", 1);
        let (slot, _) = table.insert_with(|_, _| ()).unwrap();
        table.slots[0].generation = u32::MAX;
        table.remove(slot, u32::MAX).unwrap();
        assert_eq!(table.insert_with(|_, _| ()).unwrap_err().kind(), ErrorKind::Full);
        assert_eq!(table.at(slot, 0), None);
    }
}
