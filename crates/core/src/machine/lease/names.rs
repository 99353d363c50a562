//! Leases by name.

use std::collections::{BTreeMap, VecDeque};

use crate::GrantId;

/// Which lease a name's key finds, and which keys have found one before.
#[derive(Debug, Default)]
pub(super) struct Names {
    live: BTreeMap<u64, GrantId>,
    /// Keys of leases that have ended, oldest first, so that whoever comes late hears so and need not wait.
    past: VecDeque<u64>,
}

/// What a key finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    Live(GrantId),
    Past,
    Nothing,
}

impl Names {
    pub(super) fn find(&self, key: u64) -> Found {
        match self.live.get(&key) {
            Some(grant) => Found::Live(*grant),
            None if self.past.contains(&key) => Found::Past,
            None => Found::Nothing,
        }
    }

    pub(super) fn insert(&mut self, key: u64, grant: GrantId) {
        self.live.insert(key, grant);
    }

    /// The lease is free. Remembers `limit` of such keys.
    pub(super) fn end(&mut self, key: u64, limit: usize) {
        self.live.remove(&key);
        self.past.push_back(key);
        while self.past.len() > limit {
            self.past.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::{Action, Claim, LeaseRequest, LeaseTable, Outcome};
    use crate::wire::LeaseName;
    use crate::wire::message::Why;
    use crate::{
        BlockId, BlockSet, CacheId, CacheLayout, ErrorKind, GrantId, Limits, PeerId, RegionId, Rights,
        Strided,
    };

    const CACHE: CacheId = CacheId { slot: 0, generation: 1 };
    const NAME: LeaseName = LeaseName { key: 7, secret: 8 };
    const NOW: Duration = Duration::from_secs(1);

    fn peer(slot: u32) -> PeerId {
        PeerId { slot, generation: 1 }
    }

    fn named() -> LeaseRequest {
        let limits = Limits::default();
        let region = RegionId { slot: 0, generation: 1 };
        let layout = CacheLayout::builder("kv").group("g", 1).part("k", region, Strided::dense(0, 8, 64));
        let layout = layout.build(|_| Some(512), &limits).unwrap();
        let blocks = Arc::new(BlockSet::new(&layout, &[&[BlockId(1)]], &limits).unwrap());
        let request = LeaseRequest::new(&limits, CACHE, blocks, Rights::Read);
        LeaseRequest { name: Some(NAME), expected_holders: None, ..request }
    }

    fn table() -> (LeaseTable, GrantId) {
        let mut table = LeaseTable::new(&Limits::default());
        let grant = table.grant(named(), NAME.secret, NOW).unwrap();
        (table, grant)
    }

    fn ended(table: &mut LeaseTable) -> Option<Outcome> {
        std::iter::from_fn(|| table.poll_action()).find_map(|action| match action {
            Action::Freed { outcome, .. } => Some(outcome),
            _ => None,
        })
    }

    #[test]
    fn a_name_finds_its_lease_from_its_grant_to_its_end_and_is_remembered_as_past() {
        let mut empty = LeaseTable::new(&Limits::default());
        assert_eq!(empty.find(&NAME, 1), Err(Why::NotFound), "it may come");
        let (mut table, grant) = table();
        assert_eq!(table.find(&NAME, 1), Ok((CACHE, grant)));
        table.revoke(grant, NOW);
        assert_eq!(ended(&mut table), Some(Outcome::Revoked));
        assert_eq!(table.find(&NAME, 1), Err(Why::Stale));
        assert_eq!(table.grant(named(), NAME.secret, NOW).unwrap_err().kind(), ErrorKind::ApiMisuse);
    }

    #[test]
    fn the_key_without_the_secret_finds_nothing_and_says_nothing_of_the_holders() {
        let (mut table, grant) = table();
        assert_eq!(table.find(&LeaseName { secret: 9, ..NAME }, 1), Err(Why::Denied));
        table.find(&NAME, 2).unwrap();
        for slot in [1, 2] {
            assert!(matches!(table.claim(peer(slot), CACHE, grant, NAME.secret, NOW), Ok(Claim::Ready(_))));
        }
    }

    #[test]
    fn the_first_that_asks_says_how_many_holders_there_will_be() {
        let (mut table, grant) = table();
        table.find(&NAME, 2).unwrap();
        table.find(&NAME, 1).unwrap();
        for slot in [1, 2] {
            table.claim(peer(slot), CACHE, grant, NAME.secret, NOW).unwrap();
            assert_eq!(ended(&mut table), None);
            table.release(peer(slot), grant, NOW);
        }
        assert_eq!(ended(&mut table), Some(Outcome::Done));
    }

    #[test]
    fn a_named_lease_that_nobody_asks_for_ends_after_the_grace() {
        let (mut table, _) = table();
        table.tick(NOW + Limits::default().first_contact_grace());
        assert_eq!(ended(&mut table), Some(Outcome::NeverClaimed));
    }

    #[test]
    fn a_lease_without_a_name_must_say_how_many_will_come() {
        let mut table = LeaseTable::new(&Limits::default());
        let refused = table.grant(LeaseRequest { name: None, ..named() }, 1, NOW).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ApiMisuse);
    }

    #[test]
    fn no_more_past_names_are_kept_than_leases_may_be_held() {
        let mut table = LeaseTable::new(&Limits::default().with_leases(2));
        for key in 0..5 {
            let name = LeaseName { key, ..NAME };
            let grant = table.grant(LeaseRequest { name: Some(name), ..named() }, NAME.secret, NOW).unwrap();
            table.revoke(grant, NOW);
        }
        let past = |key| table.names.find(key) == super::Found::Past;
        assert_eq!([0, 1, 2, 3, 4].map(past), [false, false, false, true, true]);
    }
}
