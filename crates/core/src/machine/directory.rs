//! Published caches: what this engine offers, by name, and what it knows of its peers'.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::wire::encode_layout;
use crate::wire::message::{CacheInfo, Why};
use crate::{CacheId, CacheLayout, Error, ErrorKind, Limits, Result};

/// A change of the directory, in the order of versions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// The cache.
    pub cache: CacheId,
    /// The directory's version after the change.
    pub version: u64,
    /// Published (`true`) or withdrawn.
    pub live: bool,
    /// The cache's name.
    pub name: String,
}

/// The caches that this engine has published. Names are unique; publishing a name again replaces what it named.
#[derive(Debug)]
pub struct Directory {
    limit: u32,
    slots: Vec<Slot>,
    names: BTreeMap<String, u32>,
    version: u64,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    retired: bool,
    published: Option<(String, CacheInfo)>,
}

impl Directory {
    /// An empty directory of at most `limits.caches`.
    pub fn new(limits: &Limits) -> Self {
        Self { limit: limits.caches, slots: Vec::new(), names: BTreeMap::new(), version: 0 }
    }

    /// Publishes a cache. A cache of the same name is withdrawn: its id becomes stale, and the changes tell both.
    ///
    /// # Errors
    /// [`ErrorKind::Full`] at `limits.caches`.
    pub fn publish(&mut self, layout: &CacheLayout) -> Result<(CacheId, Vec<Change>)> {
        let name = layout.name();
        if !self.names.contains_key(name) && self.names.len() >= self.limit as usize {
            let text =
                format!("{} caches are published; the limit caches is {}", self.names.len(), self.limit);
            return Err(Error::new(ErrorKind::Full, "publish", text));
        }
        let mut changes: Vec<Change> =
            self.names.get(name).copied().map(|slot| self.clear(slot)).into_iter().collect();
        let slot = self.vacant();
        self.version += 1;
        let cache = CacheId { slot, generation: self.slots[slot as usize].generation };
        let (digest, bytes) = (layout.digest(), encode_layout(layout.spec()));
        let info = CacheInfo { cache, version: self.version, digest, layout: bytes };
        self.slots[slot as usize].published = Some((name.to_owned(), info));
        self.names.insert(name.to_owned(), slot);
        changes.push(Change { cache, version: self.version, live: true, name: name.to_owned() });
        Ok((cache, changes))
    }

    /// Withdraws a cache; `None` when the id is of the past.
    pub fn withdraw(&mut self, cache: CacheId) -> Option<Change> {
        self.get(cache)?;
        Some(self.clear(cache.slot))
    }

    /// The cache of that id.
    pub fn get(&self, cache: CacheId) -> Option<&CacheInfo> {
        let slot = self.slots.get(cache.slot as usize).filter(|slot| slot.generation == cache.generation)?;
        slot.published.as_ref().map(|(_, info)| info)
    }

    /// The name of a published cache.
    pub fn name(&self, cache: CacheId) -> Option<&str> {
        self.get(cache)?;
        self.slots[cache.slot as usize].published.as_ref().map(|(name, _)| name.as_str())
    }

    /// Answers a peer's lookup: without the layout's bytes when the peer knows that publication.
    ///
    /// # Errors
    /// [`Why::NotFound`].
    pub fn lookup(&self, name: &str, known: Option<CacheId>) -> Result<CacheInfo, Why> {
        let slot = *self.names.get(name).ok_or(Why::NotFound)?;
        let (_, info) = self.slots[slot as usize].published.as_ref().ok_or(Why::NotFound)?;
        let mut info = info.clone();
        if known == Some(info.cache) {
            info.layout = Bytes::new();
        }
        Ok(info)
    }

    /// Counts publications and withdrawals.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Published caches.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether nothing is published.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    fn vacant(&mut self) -> u32 {
        let free = self.slots.iter().position(|slot| slot.published.is_none() && !slot.retired);
        let index = free.unwrap_or_else(|| {
            self.slots.push(Slot { generation: 1, retired: false, published: None });
            self.slots.len() - 1
        });
        index as u32
    }

    fn clear(&mut self, slot: u32) -> Change {
        self.version += 1;
        let entry = &mut self.slots[slot as usize];
        let cache = CacheId { slot, generation: entry.generation };
        let name = entry.published.take().map(|(name, _)| name).unwrap_or_default();
        match entry.generation.checked_add(1) {
            Some(next) => entry.generation = next,
            None => entry.retired = true,
        }
        self.names.remove(&name);
        Change { cache, version: self.version, live: false, name }
    }
}

/// What one peer's directory is known to hold: the last answer per name, kept current by its changes.
#[derive(Debug)]
pub struct RemoteDirectory {
    limit: usize,
    known: BTreeMap<String, Known>,
}

#[derive(Debug)]
struct Known {
    info: CacheInfo,
    /// The newest change heard; older answers and changes are late and do not count.
    newest: u64,
    live: bool,
}

impl RemoteDirectory {
    /// Knows nothing yet, and never more than `limits.caches` names.
    pub fn new(limits: &Limits) -> Self {
        Self { limit: limits.caches as usize, known: BTreeMap::new() }
    }

    /// The publication to name in a lookup, so that a known layout is not sent again.
    pub fn known(&self, name: &str) -> Option<CacheId> {
        self.known.get(name).map(|known| known.info.cache)
    }

    /// The cache as it is known, unless it was withdrawn or replaced since.
    pub fn current(&self, name: &str) -> Option<&CacheInfo> {
        self.known.get(name).filter(|known| known.live).map(|known| &known.info)
    }

    /// A lookup was answered. Gives the whole description, with the layout taken from what was known when it was left out.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`] when the layout was left out and the publication is not the known one; [`ErrorKind::Full`] past
    /// the limit.
    pub fn found(&mut self, name: &str, mut info: CacheInfo) -> Result<CacheInfo> {
        let known = self.known.get(name);
        if info.layout.is_empty() {
            match known.filter(|known| known.info.cache == info.cache) {
                Some(known) => info.layout = known.info.layout.clone(),
                None => {
                    let text =
                        format!("the peer left out the layout of cache {name:?}, which is not known here");
                    return Err(Error::new(ErrorKind::Protocol, "route", text));
                }
            }
        }
        if known.is_some_and(|known| known.newest > info.version) {
            // The answer was overtaken by a change: true when it was sent, and of the past now.
            return Ok(info);
        }
        if known.is_none() && self.known.len() >= self.limit {
            self.known.retain(|_, known| known.live);
        }
        if !self.known.contains_key(name) && self.known.len() >= self.limit {
            let text = format!(
                "{} caches of the peer are known; the limit caches is {}",
                self.known.len(),
                self.limit
            );
            return Err(Error::new(ErrorKind::Full, "route", text));
        }
        let entry = Known { newest: info.version, info: info.clone(), live: true };
        self.known.insert(name.to_owned(), entry);
        Ok(info)
    }

    /// A change was heard. `true` when a cache that was current is so no more: its routes are of the past.
    pub fn changed(&mut self, change: &Change) -> bool {
        let Some(known) = self.known.get_mut(&change.name).filter(|known| change.version > known.newest)
        else {
            return false;
        };
        known.newest = change.version;
        let was = known.live;
        // A new publication has a new id, whether or not its layout is the same: the route is made again.
        known.live = change.live && change.cache == known.info.cache;
        was && !known.live
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::LayoutDigest;
    use crate::{RegionId, Strided};

    fn publish(directory: &mut Directory, name: &str) -> (CacheId, Vec<Change>) {
        let region = RegionId { slot: 0, generation: 1 };
        let layout = CacheLayout::builder(name).group("g", 1).part("k", region, Strided::dense(0, 8, 8));
        directory.publish(&layout.build(|_| Some(64), &Limits::default()).unwrap()).unwrap()
    }

    #[test]
    fn publishing_a_name_again_makes_the_old_id_stale_and_tells_both_changes() {
        let mut directory = Directory::new(&Limits::default());
        let (old, _) = publish(&mut directory, "kv");
        let (new, changes) = publish(&mut directory, "kv");
        assert_ne!(old, new);
        assert!(directory.get(old).is_none() && directory.get(new).is_some());
        assert_eq!(
            changes.iter().map(|c| (c.cache, c.live)).collect::<Vec<_>>(),
            [(old, false), (new, true)]
        );
        assert_eq!(directory.withdraw(old), None);
        assert!(directory.withdraw(new).is_some() && directory.is_empty());
        assert_eq!(directory.lookup("kv", None), Err(Why::NotFound));
    }

    #[test]
    fn a_full_directory_refuses_a_new_name_and_takes_a_known_one() {
        let mut directory = Directory::new(&Limits::default().with_caches(1));
        publish(&mut directory, "a");
        let b = CacheLayout::whole_region("b", RegionId { slot: 0, generation: 1 }, 8);
        let refused = directory.publish(&b.build(|_| Some(8), &Limits::default()).unwrap()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Full);
        publish(&mut directory, "a");
        assert_eq!(directory.len(), 1);
    }

    #[test]
    fn a_known_layout_is_sent_once() {
        let mut directory = Directory::new(&Limits::default());
        let mut remote = RemoteDirectory::new(&Limits::default());
        publish(&mut directory, "kv");
        let full = remote.found("kv", directory.lookup("kv", remote.known("kv")).unwrap()).unwrap();
        let short = directory.lookup("kv", remote.known("kv")).unwrap();
        assert!(short.layout.is_empty());
        assert_eq!(remote.found("kv", short).unwrap(), full);
        let cache = CacheId { slot: 9, generation: 9 };
        let strange = CacheInfo { cache, digest: LayoutDigest([9; 16]), layout: Bytes::new(), ..full };
        assert_eq!(remote.found("kv", strange).unwrap_err().kind(), ErrorKind::Protocol);
    }

    #[test]
    fn a_republished_or_withdrawn_cache_is_noticed_and_late_news_is_not() {
        let mut directory = Directory::new(&Limits::default());
        let mut remote = RemoteDirectory::new(&Limits::default());
        let (_, first) = publish(&mut directory, "kv");
        let answer = directory.lookup("kv", None).unwrap();
        remote.found("kv", answer.clone()).unwrap();
        let (_, second) = publish(&mut directory, "kv");
        assert!(!remote.changed(&first[0]), "the change that made it current");
        assert!(remote.changed(&second[0]));
        assert!(!remote.changed(&second[1]));
        assert!(remote.current("kv").is_none());
        remote.found("kv", answer).unwrap();
        assert!(remote.current("kv").is_none(), "an answer that was overtaken");
        remote.found("kv", directory.lookup("kv", None).unwrap()).unwrap();
        assert!(remote.current("kv").is_some());
        assert!(!remote.changed(&second[0]), "the end of the publication before, heard once more");
        assert!(remote.current("kv").is_some());
    }
}
