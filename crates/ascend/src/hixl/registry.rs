//! The regions that one HIXL engine has registered, shared by all its links.
//!
//! The library's rules are kept here, since it breaks when some of them are not: a region of no bytes makes every later
//! connect fail, an overlap is refused with a number that says nothing, and nothing is let go while the engine has a link.

use std::collections::BTreeMap;
use std::sync::Arc;

use ropeway_core::{Error, ErrorKind, Result};
use ropeway_transport::Memory;

use super::shim::Code;
use crate::link::Holds;

/// Whose memory, as HIXL counts: its numbers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u32)]
pub(crate) enum Kind {
    /// An NPU's.
    Device = 0,
    /// The host's, pinned.
    Host = 1,
}

/// A range of addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Span {
    pub(crate) address: u64,
    pub(crate) len: u64,
    pub(crate) kind: Kind,
}

impl Span {
    fn end(self) -> u64 {
        self.address + self.len
    }

    fn covers(self, other: Self) -> bool {
        self.kind == other.kind && self.address <= other.address && other.end() <= self.end()
    }
}

/// A use of a registration: its first address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Key(u64);

/// The registrations of one engine. Locked by slow threads only.
pub(crate) struct Registry {
    entries: BTreeMap<u64, Entry>,
    limit: u32,
}

struct Entry {
    span: Span,
    handle: usize,
    uses: u32,
    /// When it was registered, as [`Registers::tick`] counts.
    since: u64,
    /// What keeps the bytes there until the library has let go.
    held: Vec<Arc<Memory>>,
}

/// How the library is asked. The two sides of HIXL's interface differ in it.
pub(crate) trait Registers {
    /// Registers a range; gives the library's handle.
    fn register(&self, span: Span) -> Result<usize>;

    /// Lets go of one.
    fn deregister(&self, handle: usize) -> Result<()>;

    /// Whether the library lets go of anything now.
    fn can_deregister(&self) -> bool;

    /// The time of a registration that has just been made, where links have to be newer than the regions that they use.
    fn tick(&self) -> u64 {
        0
    }
}

impl Registry {
    pub(crate) fn new(limit: u32) -> Self {
        Self { entries: BTreeMap::new(), limit }
    }

    /// Registers `wanted`, or counts on what covers it already. `whole` is the allocation that it is a piece of: the
    /// pieces of one allocation are one registration then.
    pub(crate) fn add(
        &mut self,
        wanted: Span,
        whole: Option<Span>,
        memory: &Arc<Memory>,
        library: &dyn Registers,
    ) -> Result<Key> {
        check(wanted)?;
        if let Some(entry) = self.covering(wanted) {
            entry.uses += 1;
            if !entry.held.iter().any(|held| Arc::ptr_eq(held, memory)) {
                entry.held.push(Arc::clone(memory));
            }
            return Ok(Key(entry.span.address));
        }
        let whole = whole.filter(|whole| check(*whole).is_ok() && whole.covers(wanted));
        let whole = whole.filter(|whole| !self.overlaps(*whole));
        let span = whole.unwrap_or(wanted);
        self.make_room(span, library)?;
        let handle = library.register(span)?;
        let since = library.tick();
        self.entries
            .insert(span.address, Entry { span, handle, uses: 1, since, held: vec![Arc::clone(memory)] });
        Ok(Key(span.address))
    }

    /// One use less. What nobody uses is let go, at once or, when the library lets go of nothing now, by
    /// [`Self::sweep`]; until then its memory is kept.
    pub(crate) fn remove(&mut self, key: Key, library: &dyn Registers) -> Result<()> {
        let Some(entry) = self.entries.get_mut(&key.0) else {
            let message = format!("no registration begins at {:#x}", key.0);
            return Err(Error::new(ErrorKind::Internal, "deregister", message));
        };
        entry.uses = entry.uses.saturating_sub(1);
        if entry.uses == 0 && library.can_deregister() { self.let_go(key, library) } else { Ok(()) }
    }

    /// Lets go of what nobody uses, if the library does so now.
    pub(crate) fn sweep(&mut self, library: &dyn Registers) {
        if !library.can_deregister() {
            return;
        }
        let unused: Vec<_> = self
            .entries
            .values()
            .filter(|entry| entry.uses == 0)
            .map(|entry| Key(entry.span.address))
            .collect();
        for key in unused {
            if let Err(error) = self.let_go(key, library) {
                tracing::warn!(%error, "a region stays registered with HIXL, and its memory is kept");
            }
        }
    }

    /// When the range of a use was registered.
    pub(crate) fn since(&self, key: Key) -> u64 {
        self.entries.get(&key.0).map_or(0, |entry| entry.since)
    }

    /// Who keeps `memory` registered that no link counts on any more.
    pub(crate) fn holds(&self, memory: &Arc<Memory>) -> Holds {
        let holds = |entry: &&Entry| entry.held.iter().any(|held| Arc::ptr_eq(held, memory));
        match self.entries.values().find(holds) {
            None => Holds::No,
            Some(entry) if entry.uses > 0 => Holds::ForAnother,
            Some(_) => Holds::WhileConnected,
        }
    }

    /// Whether a link still counts on any.
    pub(crate) fn in_use(&self) -> bool {
        self.entries.values().any(|entry| entry.uses > 0)
    }

    /// Hands each registration to `deregister`, once the library's engine ends, and lets its memory go; that of one that the
    /// library keeps is leaked.
    pub(crate) fn end(self, mut deregister: impl FnMut(usize) -> Result<(), Code>) {
        for entry in self.entries.into_values() {
            if let Err(number) = deregister(entry.handle) {
                tracing::warn!(
                    number,
                    "a region could not be deregistered before HIXL's end; its memory is leaked"
                );
                std::mem::forget(entry.held);
            }
        }
    }

    /// Registrations that the library has.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    fn let_go(&mut self, key: Key, library: &dyn Registers) -> Result<()> {
        library.deregister(self.entries[&key.0].handle)?;
        self.entries.remove(&key.0);
        Ok(())
    }

    fn covering(&mut self, wanted: Span) -> Option<&mut Entry> {
        let (_, entry) = self.entries.range_mut(..=wanted.address).next_back()?;
        entry.span.covers(wanted).then_some(entry)
    }

    fn overlaps(&self, span: Span) -> bool {
        self.overlapping(span).next().is_some()
    }

    /// No two entries overlap, so only the last one before the range can reach into it.
    fn overlapping(&self, span: Span) -> impl Iterator<Item = &Entry> {
        let before = self.entries.range(..span.address).next_back();
        let before = before.filter(move |(_, entry)| entry.span.end() > span.address);
        before.into_iter().chain(self.entries.range(span.address..span.end())).map(|(_, entry)| entry)
    }

    fn make_room(&mut self, span: Span, library: &dyn Registers) -> Result<()> {
        if self.overlaps(span) || self.entries.len() >= self.limit as usize {
            self.sweep(library);
        }
        if let Some(other) = self.overlapping(span).next() {
            let other = other.span;
            let message = format!(
                "{} bytes at {:#x} overlap the {} bytes at {:#x} that are registered already; register the outer range \
                 first, or close the region that has the other",
                span.len, span.address, other.len, other.address
            );
            return Err(Error::new(ErrorKind::ApiMisuse, "register with HIXL", message));
        }
        if self.entries.len() >= self.limit as usize {
            let message = format!(
                "{} regions are registered, which is the limit of this HIXL engine; allocate the cache in fewer, larger \
                 pieces, so that one region holds many layers",
                self.entries.len()
            );
            return Err(Error::new(ErrorKind::Full, "register with HIXL", message));
        }
        Ok(())
    }
}

/// What the library would refuse, or take and fail on later.
fn check(span: Span) -> Result<()> {
    if span.address != 0 && span.len != 0 && span.address.checked_add(span.len).is_some() {
        return Ok(());
    }
    let message = format!("{} bytes at {:#x} are no range of memory", span.len, span.address);
    Err(Error::new(ErrorKind::ApiMisuse, "register with HIXL", message))
}
