use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::limits::MIN_LEASE_TTL;
use crate::{BlockId, CacheLayout, Op, RegionId, StatusKind, Strided};

const CACHE: CacheId = CacheId { slot: 0, generation: 1 };
const SECRET: u128 = 77;

fn peer(slot: u32) -> PeerId {
    PeerId { slot, generation: 1 }
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn blocks(ids: &[u32]) -> Arc<BlockSet> {
    let ids: Vec<BlockId> = ids.iter().map(|&id| BlockId(id)).collect();
    let region = RegionId { slot: 0, generation: 1 };
    let layout = CacheLayout::builder("kv").group("g", 1).part("k", region, Strided::dense(0, 8, 64));
    let limits = Limits::default();
    Arc::new(BlockSet::new(&layout.build(|_| Some(512), &limits).unwrap(), &[&ids], &limits).unwrap())
}

fn request(rights: Rights) -> LeaseRequest {
    LeaseRequest::new(&Limits::default(), CACHE, blocks(&[1, 2, 3]), rights)
}

fn actions(table: &mut LeaseTable) -> Vec<Action> {
    std::iter::from_fn(|| table.poll_action()).collect()
}

fn freed(actions: &[Action]) -> Option<Outcome> {
    actions.iter().find_map(|action| match action {
        Action::Freed { outcome, .. } => Some(*outcome),
        _ => None,
    })
}

/// A table with one open lease that peer 1 holds.
fn held(rights: Rights) -> (LeaseTable, GrantId) {
    let mut table = LeaseTable::new(&Limits::default());
    let grant = table.grant(request(rights), SECRET, secs(0)).unwrap();
    assert!(matches!(table.claim(peer(1), CACHE, grant, SECRET, secs(1)), Ok(Claim::Ready(_))));
    actions(&mut table);
    (table, grant)
}

#[test]
fn a_holder_may_write_until_its_word_or_its_death_however_the_lease_ends() {
    assert!(!held(Rights::Read).0.may_write(peer(1)));
    for proof in 0..3 {
        let (mut table, grant) = held(Rights::Write);
        assert!(table.may_write(peer(1)) && !table.may_write(peer(2)));
        table.peer_lost(peer(1), secs(2));
        table.fence_pending(grant);
        table.tick(secs(100_000));
        assert!(table.may_write(peer(1)), "no time that passes is a proof");
        let proof = match proof {
            0 => Proof::Ack { peer: peer(1), grant },
            1 => Proof::Fenced { peer: peer(1), grant },
            _ => Proof::ProcessGone { peer: peer(1) },
        };
        table.prove(proof, secs(100_001));
        assert!(!table.may_write(peer(1)), "{proof:?}");
    }
}

#[test]
fn a_lease_is_done_when_as_many_holders_as_expected_have_released_it() {
    let mut table = LeaseTable::new(&Limits::default());
    let two = LeaseRequest { expected_holders: Some(2), ..request(Rights::Read) };
    let grant = table.grant(two, SECRET, secs(0)).unwrap();
    for slot in [1, 2] {
        table.claim(peer(slot), CACHE, grant, SECRET, secs(0)).unwrap();
    }
    assert_eq!(
        table.claim(peer(3), CACHE, grant, SECRET, secs(0)),
        Err(Why::Full),
        "a third was not expected"
    );
    table.release(peer(1), grant, secs(1));
    table.release(peer(1), grant, secs(1));
    assert_eq!(table.state(grant), Some(LeaseState::Open), "one holder's word, twice, is one holder's word");
    table.release(peer(2), grant, secs(1));
    assert_eq!(freed(&actions(&mut table)), Some(Outcome::Done));
    assert_eq!((table.state(grant), table.next_timer(), table.live()), (None, None, 0));
}

#[test]
fn an_id_of_the_past_never_names_the_slots_next_lease() {
    let (mut table, old) = held(Rights::Write);
    table.release(peer(1), old, secs(1));
    let new = table.grant(request(Rights::Write), SECRET, secs(1)).unwrap();
    assert_eq!(new.slot, old.slot);
    assert_ne!(new.generation, old.generation);
    assert_eq!(table.claim(peer(2), CACHE, old, SECRET, secs(1)), Err(Why::Stale));
    table.claim(peer(1), CACHE, new, SECRET, secs(1)).unwrap();
    table.release(peer(1), old, secs(1));
    table.prove(Proof::Fenced { peer: peer(1), grant: old }, secs(1));
    assert_eq!(table.serve_begin(peer(1), old, Op::Write).unwrap_err(), StatusKind::StaleLease);
    assert_eq!(table.notify(peer(1), old, 0, false), Err(Why::Stale));
    assert!(!table.revoke(old, secs(1)));
    assert_eq!(table.state(new), Some(LeaseState::Open));
}

#[test]
fn a_slot_whose_generations_are_used_up_is_retired() {
    let limits = Limits::default().with_leases(1);
    let mut table = LeaseTable::new(&limits);
    let first = table.grant(request(Rights::Read), SECRET, secs(0)).unwrap();
    table.revoke(first, secs(0));
    table.exhaust(0);
    let last = table.grant(request(Rights::Read), SECRET, secs(0)).unwrap();
    assert_eq!(last.generation, u32::MAX);
    table.revoke(last, secs(0));
    let refused = table.grant(request(Rights::Read), SECRET, secs(0)).unwrap_err();
    assert_eq!(refused.kind(), crate::ErrorKind::Full);
    assert_eq!(table.state(last), None);
}

#[test]
fn a_wrong_secret_or_cache_holds_nothing() {
    let mut table = LeaseTable::new(&Limits::default());
    let grant = table.grant(request(Rights::Read), SECRET, secs(0)).unwrap();
    assert_eq!(table.claim(peer(1), CACHE, grant, SECRET ^ 1 << 127, secs(0)), Err(Why::Denied));
    let other = CacheId { slot: 0, generation: 2 };
    assert_eq!(table.claim(peer(1), other, grant, SECRET, secs(0)), Err(Why::Stale));
    assert_eq!(table.serve_begin(peer(1), grant, Op::Read).unwrap_err(), StatusKind::StaleLease);
    assert_eq!((table.held_by(peer(1)), table.holders(grant)), (0, vec![]));
}

#[test]
fn silence_ends_a_lease_and_frees_nothing() {
    let (mut table, grant) = held(Rights::Write);
    table.renew(peer(1), secs(20));
    table.tick(secs(31));
    assert_eq!(table.state(grant), Some(LeaseState::Open), "renewed");
    table.tick(secs(50));
    assert_eq!(table.state(grant), Some(LeaseState::Closing));
    let said = actions(&mut table);
    let (told, peer1) = (Action::TellRevoked { peer: peer(1), grant }, peer(1));
    assert_eq!(said, [Action::CloseFence { grant }, told, Action::AskFence { grant, peer: peer1 }]);
    table.tick(secs(100_000));
    assert_eq!(freed(&actions(&mut table)), None, "no time frees");
    table.prove(Proof::ProcessGone { peer: peer1 }, secs(100_000));
    assert_eq!(freed(&actions(&mut table)), Some(Outcome::Expired));
}

#[test]
fn a_time_to_live_too_short_to_be_renewed_is_refused() {
    let mut table = LeaseTable::new(&Limits::default());
    let ttl = MIN_LEASE_TTL;
    let brief = LeaseRequest { ttl: ttl - Duration::from_millis(1), ..request(Rights::Read) };
    assert_eq!(table.grant(brief, SECRET, secs(0)).unwrap_err().kind(), crate::ErrorKind::ApiMisuse);
    assert!(table.grant(LeaseRequest { ttl, ..request(Rights::Read) }, SECRET, secs(0)).is_ok());
}

#[test]
fn a_claim_that_waits_does_not_expire_and_its_time_begins_when_the_blocks_are_complete() {
    let mut table = LeaseTable::new(&Limits::default());
    let pending = LeaseRequest { pending: true, ttl: secs(2), ..request(Rights::Read) };
    let grant = table.grant(pending, SECRET, secs(0)).unwrap();
    assert_eq!(table.claim(peer(1), CACHE, grant, SECRET, secs(0)), Ok(Claim::Pending));
    table.tick(secs(10));
    assert_eq!(table.state(grant), Some(LeaseState::Pending));
    table.ready(grant, secs(10));
    assert_eq!(table.next_timer(), Some(secs(12)));
    table.tick(secs(12));
    assert_eq!(table.state(grant), Some(LeaseState::Closing));
}

#[test]
fn durations_without_end_are_never_over() {
    let limits = Limits::default().with_quarantine_fatal_after(Duration::MAX);
    let mut table = LeaseTable::new(&limits);
    let (ttl, first_contact_grace) = (Duration::MAX, Duration::MAX);
    let endless = LeaseRequest { ttl, first_contact_grace, ..request(Rights::Write) };
    let grant = table.grant(endless, SECRET, secs(1)).unwrap();
    assert_eq!(table.next_timer(), None, "it waits for its holder");
    let Ok(Claim::Ready(info)) = table.claim(peer(1), CACHE, grant, SECRET, secs(1)) else { panic!() };
    assert_eq!((info.ttl_ms, table.next_timer()), (u32::MAX, None), "it needs no renewal");
    table.tick(secs(1 << 40));
    assert_eq!(table.state(grant), Some(LeaseState::Open));
    table.revoke(grant, secs(1 << 40));
    assert_eq!((table.state(grant), table.next_timer()), (Some(LeaseState::Closing), None), "no alarm");
}

#[test]
fn a_forsaken_lease_is_revoked_and_freed_by_proof_alone() {
    let (mut table, grant) = held(Rights::Write);
    table.forsaken(peer(2), grant, secs(2));
    assert_eq!(table.state(grant), Some(LeaseState::Open), "a stranger's word");
    table.forsaken(peer(1), grant, secs(2));
    assert_eq!(table.state(grant), Some(LeaseState::Closing));
    let said = actions(&mut table);
    assert!(said.contains(&Action::CloseFence { grant }) && freed(&said).is_none(), "{said:?}");
    table.forsaken(peer(1), grant, secs(3));
    assert_eq!(actions(&mut table), []);
    table.prove(Proof::Fenced { peer: peer(1), grant }, secs(3));
    assert_eq!(freed(&actions(&mut table)), Some(Outcome::Forsaken));
}

#[test]
fn each_kind_of_proof_frees_and_a_lost_session_is_none() {
    let proofs: [fn(GrantId) -> Proof; 4] = [
        |grant| Proof::Ack { peer: peer(1), grant },
        |grant| Proof::Fenced { peer: peer(1), grant },
        |_| Proof::LinkClosed { peer: peer(1) },
        |_| Proof::ProcessGone { peer: peer(1) },
    ];
    for rights in [Rights::Read, Rights::Write] {
        for proof in proofs {
            let (mut table, grant) = held(rights);
            table.peer_lost(peer(1), secs(2));
            assert_eq!(freed(&actions(&mut table)), None);
            table.prove(Proof::Ack { peer: peer(2), grant }, secs(2));
            assert_eq!(freed(&actions(&mut table)), None, "another peer's word");
            table.prove(proof(grant), secs(3));
            assert_eq!(freed(&actions(&mut table)), Some(Outcome::PeerLost), "{:?}", proof(grant));
        }
    }
}

#[test]
fn a_fence_that_was_seen_before_it_was_closed_proves_nothing() {
    let (mut table, grant) = held(Rights::Write);
    table.prove(Proof::Fenced { peer: peer(1), grant }, secs(1));
    table.revoke(grant, secs(2));
    assert_eq!(freed(&actions(&mut table)), None);
    assert_eq!(table.holders(grant), [peer(1)]);
}

#[test]
fn every_holder_must_be_proven() {
    let mut table = LeaseTable::new(&Limits::default());
    let two = LeaseRequest { expected_holders: Some(2), ..request(Rights::Write) };
    let grant = table.grant(two, SECRET, secs(0)).unwrap();
    for slot in [1, 2] {
        table.claim(peer(slot), CACHE, grant, SECRET, secs(0)).unwrap();
    }
    table.peer_lost(peer(1), secs(1));
    table.prove(Proof::LinkClosed { peer: peer(1) }, secs(1));
    assert_eq!(freed(&actions(&mut table)), None);
    table.prove(Proof::Ack { peer: peer(2), grant }, secs(1));
    assert_eq!(freed(&actions(&mut table)), Some(Outcome::PeerLost));
}

#[test]
fn our_own_serving_work_withholds_the_lease_too() {
    let (mut table, grant) = held(Rights::Read);
    assert_eq!(table.serve_begin(peer(1), grant, Op::Write).unwrap_err(), StatusKind::Denied);
    table.serve_begin(peer(1), grant, Op::Read).unwrap();
    table.serve_begin(peer(1), grant, Op::Read).unwrap();
    table.release(peer(1), grant, secs(1));
    assert_eq!(table.serve_begin(peer(1), grant, Op::Read).unwrap_err(), StatusKind::StaleLease);
    table.serve_end(grant);
    assert_eq!(freed(&actions(&mut table)), None);
    table.serve_end(grant);
    assert_eq!(freed(&actions(&mut table)), Some(Outcome::Done));
}

#[test]
fn a_claim_on_blocks_that_are_not_complete_waits_for_ready() {
    let mut table = LeaseTable::new(&Limits::default());
    let pending = LeaseRequest { pending: true, ..request(Rights::Read) };
    let grant = table.grant(pending, SECRET, secs(0)).unwrap();
    assert_eq!(table.claim(peer(1), CACHE, grant, SECRET, secs(0)), Ok(Claim::Pending));
    assert_eq!(actions(&mut table), [], "the fence is not open yet");
    assert_eq!(table.serve_begin(peer(1), grant, Op::Read).unwrap_err(), StatusKind::StaleLease);
    assert!(table.ready(grant, secs(1)));
    let said = actions(&mut table);
    assert_eq!(said[0], Action::OpenFence { grant, rights: Rights::Read });
    assert!(
        matches!(&said[1], Action::Decided { peer: p, result: Ok(info), .. } if *p == peer(1) && info.grant == grant)
    );
    assert!(!table.ready(grant, secs(1)), "once");
}

#[test]
fn a_lease_that_ends_before_it_is_ready_refuses_who_waited_and_is_free_at_once() {
    let mut table = LeaseTable::new(&Limits::default());
    let pending = LeaseRequest { pending: true, ..request(Rights::Write) };
    let grant = table.grant(pending, SECRET, secs(0)).unwrap();
    table.claim(peer(1), CACHE, grant, SECRET, secs(0)).unwrap();
    table.revoke(grant, secs(1));
    let said = actions(&mut table);
    assert_eq!(said[0], Action::Decided { peer: peer(1), grant, result: Err(Why::Stale) });
    assert_eq!(freed(&said), Some(Outcome::Revoked));
    assert_eq!(table.held_by(peer(1)), 0);
}

#[test]
fn a_lease_that_nobody_claims_ends_after_the_grace_and_not_before() {
    let limits = Limits::default();
    let mut table = LeaseTable::new(&limits);
    let grant = table.grant(request(Rights::Write), SECRET, secs(5)).unwrap();
    let end = secs(5) + limits.first_contact_grace();
    assert_eq!(table.next_timer(), Some(end));
    table.tick(end - Duration::from_millis(1));
    assert_eq!(table.state(grant), Some(LeaseState::Open));
    table.tick(end);
    assert_eq!(freed(&actions(&mut table)), Some(Outcome::NeverClaimed));
}

#[test]
fn withheld_blocks_are_reported_once_and_raise_the_alarm_once() {
    let limits = Limits::default();
    let (mut table, grant) = held(Rights::Write);
    table.fence_pending(grant);
    table.revoke(grant, secs(10));
    actions(&mut table);
    table.fence_pending(grant);
    table.fence_pending(grant);
    let said = actions(&mut table);
    assert!(matches!(&said[..], [Action::Quarantined { peers, .. }] if peers[..] == [peer(1)]), "{said:?}");
    assert_eq!(table.withheld_blocks(), 3);
    let alarm = secs(10) + limits.quarantine_fatal_after();
    for _ in 0..3 {
        table.tick(alarm - Duration::from_millis(1));
    }
    assert_eq!(actions(&mut table), []);
    table.tick(alarm);
    table.tick(alarm * 2);
    let since = secs(10);
    assert_eq!(actions(&mut table), [Action::Fatal { grant, peers: vec![peer(1)], since, blocks: 3 }]);
    assert_eq!(table.next_timer(), None);
    table.prove(Proof::LinkClosed { peer: peer(1) }, alarm * 2);
    let said = actions(&mut table);
    assert!(matches!(said[..], [Action::Freed { quarantined: true, .. }]), "{said:?}");
    assert_eq!(table.withheld_blocks(), 0);
}

#[test]
fn an_arrival_counts_once_and_replaces_a_failure() {
    let (mut table, grant) = held(Rights::Write);
    assert_eq!(table.notify(peer(1), grant, 70, false), Ok(Arrival::New { arrived: 1 }));
    assert_eq!(table.notify(peer(1), grant, 70, false), Ok(Arrival::Duplicate));
    assert_eq!(table.notify(peer(1), grant, 70, true), Ok(Arrival::Ignored));
    assert_eq!(table.notify(peer(1), grant, 2, true), Ok(Arrival::Failed));
    assert_eq!(table.failed(grant, 2), Some(true));
    assert_eq!(table.notify(peer(1), grant, 2, false), Ok(Arrival::New { arrived: 2 }));
    assert_eq!((table.arrived(grant, 2), table.failed(grant, 2)), (Some(true), Some(false)));
    let limit = Limits::default().notifications_per_lease();
    assert_eq!(table.notify(peer(1), grant, limit, false), Err(Why::Full));
    assert_eq!(table.notify(peer(2), grant, 3, false), Err(Why::Stale), "not a holder");
    assert_eq!(table.arrivals(grant), Some(2));
}

#[test]
fn named_limits_refuse_and_nothing_grows() {
    let limits = Limits::default().with_leases(2).with_grants_per_peer(1).with_blocks_per_lease(3);
    let mut table = LeaseTable::new(&limits);
    let four = LeaseRequest { blocks: blocks(&[1, 2, 3, 4]), ..request(Rights::Read) };
    assert!(table.grant(four, SECRET, secs(0)).unwrap_err().message().contains("blocks_per_lease"));
    let first = table.grant(request(Rights::Read), SECRET, secs(0)).unwrap();
    let second = table.grant(request(Rights::Read), SECRET, secs(0)).unwrap();
    let refused = table.grant(request(Rights::Read), SECRET, secs(0)).unwrap_err();
    assert!(refused.kind() == crate::ErrorKind::Full && refused.message().contains("limit leases"));
    table.claim(peer(1), CACHE, first, SECRET, secs(0)).unwrap();
    assert_eq!(table.claim(peer(1), CACHE, second, SECRET, secs(0)), Err(Why::Full));
    table.claim(peer(1), CACHE, first, SECRET, secs(0)).expect("what it holds it may claim again");
}

#[test]
fn a_peer_whose_session_was_lost_claims_nothing_more() {
    let (mut table, grant) = held(Rights::Read);
    table.peer_lost(peer(1), secs(1));
    let other = table.grant(request(Rights::Read), SECRET, secs(1)).unwrap();
    assert_eq!(table.claim(peer(1), CACHE, other, SECRET, secs(1)), Err(Why::Closed));
    let said = actions(&mut table);
    assert!(
        !said.contains(&Action::TellRevoked { peer: peer(1), grant }),
        "there is no session to tell it over"
    );
}

#[test]
fn lost_sessions_are_not_remembered_for_ever() {
    let mut table = LeaseTable::new(&Limits::default());
    for generation in 1..100 {
        table.peer_lost(PeerId { slot: 7, generation }, secs(1));
    }
    assert_eq!(table.peers_known(), 1);
}

#[derive(Clone, Copy, Debug)]
enum Operation {
    Grant { write: bool, expected: u32, pending: bool },
    Ready(usize),
    Claim(usize, u32),
    Prove(usize, u32, u8),
    Revoke(usize),
    Lost(u32),
    Serve(usize, u32),
    ServeEnd(usize),
    Pass(u64),
}

fn operation() -> impl Strategy<Value = Operation> {
    let (lease, who) = (|| 0_usize..3, || 1_u32..3);
    prop_oneof![
        (any::<bool>(), 1_u32..3, any::<bool>()).prop_map(|(write, expected, pending)| Operation::Grant {
            write,
            expected,
            pending
        }),
        lease().prop_map(Operation::Ready),
        (lease(), who()).prop_map(|(lease, who)| Operation::Claim(lease, who)),
        (lease(), who(), 0_u8..4).prop_map(|(lease, who, kind)| Operation::Prove(lease, who, kind)),
        lease().prop_map(Operation::Revoke),
        who().prop_map(Operation::Lost),
        (lease(), who()).prop_map(|(lease, who)| Operation::Serve(lease, who)),
        lease().prop_map(Operation::ServeEnd),
        (1_u64..200).prop_map(Operation::Pass),
    ]
}

/// What must hold of one lease, kept in the plainest form.
#[derive(Debug, Default)]
struct Lent {
    closed: bool,
    /// Peers that were told they may begin, and whose end is not proven.
    unproven: BTreeSet<u32>,
    serving: u32,
    freed: bool,
}

/// The table, and what is known of it from the outside.
struct Model {
    table: LeaseTable,
    now: Duration,
    leases: Vec<(GrantId, Lent)>,
    gone: BTreeSet<u32>,
}

impl Model {
    fn id(&self, index: usize) -> Option<GrantId> {
        // Counted from the newest, so that most operations meet a lease that lives.
        let at = self.leases.len().checked_sub(1 + index)?;
        self.leases.get(at).map(|(grant, _)| *grant)
    }

    fn lent(&mut self, grant: GrantId) -> &mut Lent {
        &mut self.leases.iter_mut().find(|(id, _)| *id == grant).unwrap().1
    }

    fn apply(&mut self, operation: Operation) -> Result<(), TestCaseError> {
        let now = self.now;
        match operation {
            Operation::Grant { write, expected, pending } => {
                let rights = if write { Rights::Write } else { Rights::Read };
                let request = LeaseRequest { expected_holders: Some(expected), pending, ..request(rights) };
                if let Ok(grant) = self.table.grant(request, SECRET, now) {
                    prop_assert!(self.leases.iter().all(|(old, _)| *old != grant), "an id came twice");
                    self.leases.push((grant, Lent::default()));
                }
            }
            Operation::Lost(who) => {
                self.gone.insert(who);
                self.table.peer_lost(peer(who), now);
            }
            Operation::Pass(seconds) => {
                self.now += secs(seconds);
                self.table.tick(self.now);
            }
            Operation::Ready(index)
            | Operation::Claim(index, _)
            | Operation::Prove(index, ..)
            | Operation::Revoke(index)
            | Operation::Serve(index, _)
            | Operation::ServeEnd(index) => {
                if let Some(grant) = self.id(index) {
                    self.apply_to(grant, operation)?;
                }
            }
        }
        Ok(())
    }

    fn apply_to(&mut self, grant: GrantId, operation: Operation) -> Result<(), TestCaseError> {
        let now = self.now;
        match operation {
            Operation::Ready(_) => {
                self.table.ready(grant, now);
            }
            Operation::Claim(_, who) => {
                let claim = self.table.claim(peer(who), CACHE, grant, SECRET, now);
                if matches!(claim, Ok(Claim::Ready(_))) {
                    prop_assert!(!self.gone.contains(&who) && !self.lent(grant).closed);
                    self.lent(grant).unproven.insert(who);
                }
            }
            Operation::Prove(_, who, kind) => self.prove(grant, who, kind),
            Operation::Revoke(_) => {
                self.table.revoke(grant, now);
            }
            Operation::Serve(_, who) => {
                if [Op::Read, Op::Write]
                    .map(|op| self.table.serve_begin(peer(who), grant, op).is_ok())
                    .contains(&true)
                {
                    let lent = self.lent(grant);
                    prop_assert!(!lent.closed && lent.unproven.contains(&who));
                    lent.serving += 1;
                }
            }
            _ => {
                if self.lent(grant).serving > 0 {
                    self.lent(grant).serving -= 1;
                    self.table.serve_end(grant);
                }
            }
        }
        Ok(())
    }

    fn prove(&mut self, grant: GrantId, who: u32, kind: u8) {
        let peer = peer(who);
        let closed = self.lent(grant).closed;
        let proof = match kind {
            0 => Proof::Ack { peer, grant },
            1 => Proof::Fenced { peer, grant },
            2 => Proof::LinkClosed { peer },
            _ => Proof::ProcessGone { peer },
        };
        if kind == 0 || (kind == 1 && closed) {
            self.lent(grant).unproven.remove(&who);
        } else if kind > 1 {
            self.leases.iter_mut().for_each(|(_, lent)| {
                lent.unproven.remove(&who);
            });
            // Proven gone: an engine would name a new session anew; here the peer may come back.
            self.gone.remove(&who);
        }
        self.table.prove(proof, self.now);
    }

    fn listen(&mut self) -> Result<(), TestCaseError> {
        while let Some(action) = self.table.poll_action() {
            match action {
                Action::Decided { peer, grant, result: Ok(_) } => {
                    self.lent(grant).unproven.insert(peer.slot);
                }
                Action::CloseFence { grant } => self.lent(grant).closed = true,
                Action::Freed { grant, .. } => {
                    let lent = self.lent(grant);
                    prop_assert!(!lent.freed && lent.serving == 0 && lent.unproven.is_empty(), "{:?}", lent);
                    (lent.freed, lent.closed) = (true, true);
                }
                _ => {}
            }
        }
        for (grant, lent) in &self.leases {
            prop_assert_eq!(self.table.state(*grant).is_none(), lent.freed);
            if lent.closed && lent.serving == 0 && lent.unproven.is_empty() {
                prop_assert!(lent.freed, "all proof is there, the lease is not free: {:?}", grant);
            }
        }
        let live = self.leases.iter().filter(|(_, lent)| !lent.freed).count();
        prop_assert_eq!(self.table.live() as usize, live);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn a_lease_is_freed_once_and_only_when_nothing_can_touch_it(operations in prop::collection::vec(operation(), 1..60)) {
        let table = LeaseTable::new(&Limits::default().with_leases(3));
        let mut model = Model { table, now: secs(0), leases: Vec::new(), gone: BTreeSet::new() };
        for operation in operations {
            model.apply(operation)?;
            model.listen()?;
        }
    }
}
