use super::*;

const OWNER: PeerId = PeerId { slot: 1, generation: 1 };
const GRANT: GrantId = GrantId { slot: 4, generation: 2 };

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn info() -> ClaimInfo {
    let cache = CacheId { slot: 0, generation: 1 };
    ClaimInfo { grant: GRANT, cache, rights: Rights::Read, ttl_ms: 30_000, blocks: Arc::default() }
}

fn actions(table: &mut GrantTable) -> Vec<GrantAction> {
    std::iter::from_fn(|| table.poll_action()).collect()
}

const FORSAKE: GrantAction = GrantAction::Forsake { peer: OWNER, grant: GRANT };
const RELEASE: GrantAction = GrantAction::SendRelease { peer: OWNER, grant: GRANT };

fn ended(why: Ended) -> GrantAction {
    GrantAction::Ended { peer: OWNER, grant: GRANT, why }
}

/// A table that holds one grant, claimed at 10 s.
fn held() -> GrantTable {
    let mut table = GrantTable::new(&Limits::default());
    table.claim_sent(OWNER, GRANT, secs(10)).unwrap();
    assert!(table.claimed(OWNER, info(), secs(10)));
    table
}

#[test]
fn the_last_handle_and_the_last_transfer_release_and_nothing_earlier_does() {
    let mut table = held();
    table.begin_use(OWNER, GRANT, Op::Read, secs(11)).unwrap();
    assert_eq!(table.begin_use(OWNER, GRANT, Op::Write, secs(11)), Err(StatusKind::Denied));
    table.drop_handle(OWNER, GRANT);
    assert_eq!(actions(&mut table), []);
    table.end_use(OWNER, GRANT, true);
    assert_eq!(actions(&mut table), [RELEASE]);
    assert_eq!((table.live(), table.needs_heartbeat(OWNER), table.next_timer()), (0, false, None));
}

#[test]
fn a_transfer_without_proof_holds_the_release_until_the_link_is_closed() {
    let mut table = held();
    table.begin_use(OWNER, GRANT, Op::Read, secs(11)).unwrap();
    table.end_use(OWNER, GRANT, false);
    table.revoked(OWNER, GRANT);
    table.drop_handle(OWNER, GRANT);
    assert_eq!(actions(&mut table), [ended(Ended::Revoked)]);
    table.link_closed(OWNER);
    assert_eq!(actions(&mut table), [RELEASE]);
}

#[test]
fn a_grant_let_go_without_proof_of_quiet_is_forsaken_once_and_renewed_no_more() {
    let mut table = held();
    table.begin_use(OWNER, GRANT, Op::Write, secs(11)).unwrap_err();
    table.begin_use(OWNER, GRANT, Op::Read, secs(11)).unwrap();
    table.end_use(OWNER, GRANT, false);
    assert_eq!((actions(&mut table), table.needs_heartbeat(OWNER)), (vec![], true), "a handle is left");
    table.drop_handle(OWNER, GRANT);
    assert_eq!(actions(&mut table), [FORSAKE]);
    assert_eq!((table.needs_heartbeat(OWNER), table.next_timer()), (false, None));
    assert_eq!(table.claim_sent(OWNER, GRANT, secs(12)), Err(StatusKind::StaleLease));
    table.link_closed(OWNER);
    assert_eq!((actions(&mut table), table.live()), (vec![RELEASE], 0), "now it is quiet");
}

#[test]
fn the_revocation_that_answers_forsaking_is_no_reason_to_acknowledge() {
    let mut table = held();
    table.begin_use(OWNER, GRANT, Op::Read, secs(11)).unwrap();
    table.end_use(OWNER, GRANT, false);
    table.drop_handle(OWNER, GRANT);
    assert_eq!(actions(&mut table), [FORSAKE]);
    table.revoked(OWNER, GRANT);
    assert_eq!((actions(&mut table), table.live()), (vec![], 0));
}

#[test]
fn an_expired_grant_without_proof_of_quiet_is_forsaken_although_a_handle_is_left() {
    let mut table = held();
    table.begin_use(OWNER, GRANT, Op::Read, secs(11)).unwrap();
    table.end_use(OWNER, GRANT, false);
    table.tick(secs(40));
    assert_eq!(actions(&mut table), [ended(Ended::Expired), FORSAKE]);
    table.revoked(OWNER, GRANT);
    table.drop_handle(OWNER, GRANT);
    assert_eq!((actions(&mut table), table.live()), (vec![], 1));
    table.link_closed(OWNER);
    assert_eq!((actions(&mut table), table.live()), (vec![RELEASE], 0));
}

#[test]
fn a_grant_that_ended_under_a_transfer_goes_on_asking_for_signs_of_life() {
    let mut table = held();
    table.begin_use(OWNER, GRANT, Op::Read, secs(11)).unwrap();
    table.revoked(OWNER, GRANT);
    assert!(table.needs_heartbeat(OWNER), "else an owner that is stopped is never found silent");
    table.end_use(OWNER, GRANT, true);
    assert!(!table.needs_heartbeat(OWNER));
}

#[test]
fn a_revoked_grant_takes_no_transfer_and_is_acknowledged_when_quiet() {
    let mut table = held();
    table.begin_use(OWNER, GRANT, Op::Read, secs(11)).unwrap();
    table.revoked(OWNER, GRANT);
    assert_eq!(actions(&mut table), [ended(Ended::Revoked)]);
    assert_eq!(table.begin_use(OWNER, GRANT, Op::Read, secs(11)), Err(StatusKind::StaleLease));
    assert_eq!(table.claim_sent(OWNER, GRANT, secs(11)), Err(StatusKind::StaleLease));
    table.end_use(OWNER, GRANT, true);
    assert_eq!(actions(&mut table), [RELEASE], "although a handle is still there");
    table.drop_handle(OWNER, GRANT);
    assert_eq!((actions(&mut table), table.live()), (vec![], 0));
}

#[test]
fn a_release_does_not_overtake_a_claim_that_is_under_way() {
    let mut table = held();
    table.claim_sent(OWNER, GRANT, secs(11)).unwrap();
    table.drop_handle(OWNER, GRANT);
    assert_eq!(actions(&mut table), []);
    table.claimed(OWNER, info(), secs(11));
    table.begin_use(OWNER, GRANT, Op::Read, secs(11)).unwrap();
    table.end_use(OWNER, GRANT, true);
    table.drop_handle(OWNER, GRANT);
    assert_eq!(actions(&mut table), [RELEASE]);
}

#[test]
fn a_refused_claim_leaves_nothing_behind() {
    let mut table = GrantTable::new(&Limits::default());
    table.claim_sent(OWNER, GRANT, secs(0)).unwrap();
    assert!(table.needs_heartbeat(OWNER), "a claim may wait for long");
    table.claim_failed(OWNER, GRANT);
    assert_eq!((actions(&mut table), table.live(), table.needs_heartbeat(OWNER)), (vec![], 0, false));
    assert!(!table.claimed(OWNER, info(), secs(11)), "an answer that was not asked for");
}

#[test]
fn a_grant_lives_from_when_its_renewal_was_sent() {
    let mut table = held();
    assert_eq!(table.next_timer(), Some(secs(40)));
    // Sent at 20 s, confirmed at 39 s: good until 50 s and no longer.
    table.renewed_at(OWNER, secs(20));
    table.tick(secs(40));
    assert_eq!((actions(&mut table), table.next_timer()), (vec![], Some(secs(50))));
    assert_eq!(table.begin_use(OWNER, GRANT, Op::Read, secs(50)), Err(StatusKind::StaleLease));
    table.tick(secs(50));
    assert_eq!(actions(&mut table), [ended(Ended::Expired), RELEASE]);
}

#[test]
fn heartbeats_keep_pace_with_the_shortest_time_to_live_that_is_held() {
    let mut table = held();
    assert_eq!(table.heartbeat_pause(OWNER), Some(secs(10)));
    let brief = GrantId { slot: 5, generation: 1 };
    table.claim_sent(OWNER, brief, secs(11)).unwrap();
    assert_eq!(table.heartbeat_pause(OWNER), Some(secs(10)), "not known before the answer");
    table.claimed(OWNER, ClaimInfo { grant: brief, ttl_ms: 3_000, ..info() }, secs(11));
    assert_eq!(table.heartbeat_pause(OWNER), Some(secs(1)));
    table.drop_handle(OWNER, brief);
    assert_eq!(table.heartbeat_pause(OWNER), Some(secs(10)));
    table.drop_handle(OWNER, GRANT);
    assert_eq!(table.heartbeat_pause(OWNER), None);
}

#[test]
fn the_time_to_live_of_a_claim_that_waited_begins_with_its_answer() {
    let mut table = GrantTable::new(&Limits::default());
    table.claim_sent(OWNER, GRANT, secs(0)).unwrap();
    assert!(table.claimed(OWNER, info(), secs(100)));
    assert_eq!((table.next_timer(), table.heartbeat_pause(OWNER)), (Some(secs(130)), Some(secs(10))));
}

#[test]
fn a_lost_owner_is_told_nothing() {
    let mut table = held();
    table.begin_use(OWNER, GRANT, Op::Read, secs(11)).unwrap();
    table.peer_lost(OWNER);
    table.drop_handle(OWNER, GRANT);
    table.end_use(OWNER, GRANT, true);
    assert_eq!(actions(&mut table), [ended(Ended::PeerLost)]);
    assert_eq!(table.live(), 0);
}

#[test]
fn a_dead_handle_is_not_taken_for_one_of_a_later_claim() {
    let mut table = held();
    table.tick(secs(40));
    assert_eq!(table.claim_sent(OWNER, GRANT, secs(41)), Err(StatusKind::StaleLease));
    table.drop_handle(OWNER, GRANT);
    table.claim_sent(OWNER, GRANT, secs(42)).unwrap();
    table.claimed(OWNER, info(), secs(11));
    table.drop_handle(OWNER, GRANT);
    assert_eq!(actions(&mut table), [ended(Ended::Expired), RELEASE, RELEASE]);
}

#[test]
fn a_revocation_that_overtakes_the_answer_to_a_claim_is_acknowledged() {
    let mut table = GrantTable::new(&Limits::default());
    table.claim_sent(OWNER, GRANT, secs(0)).unwrap();
    table.revoked(OWNER, GRANT);
    assert_eq!(actions(&mut table), [ended(Ended::Revoked)]);
    assert!(table.claimed(OWNER, info(), secs(11)));
    assert_eq!(actions(&mut table), [RELEASE]);
    assert_eq!(table.begin_use(OWNER, GRANT, Op::Read, secs(0)), Err(StatusKind::StaleLease));
    table.drop_handle(OWNER, GRANT);
    assert_eq!((actions(&mut table), table.live(), table.next_timer()), (vec![], 0, None));
}

#[test]
fn grants_of_one_owner_are_limited() {
    let mut table = GrantTable::new(&Limits::default().with_grants_per_peer(1));
    table.claim_sent(OWNER, GRANT, secs(0)).unwrap();
    table.claim_sent(OWNER, GRANT, secs(0)).unwrap();
    let other = GrantId { slot: 5, generation: 1 };
    assert_eq!(table.claim_sent(OWNER, other, secs(0)), Err(StatusKind::PeerFull));
}

#[test]
fn a_revocation_of_what_is_not_held_is_acknowledged() {
    let mut table = GrantTable::new(&Limits::default());
    table.revoked(OWNER, GRANT);
    assert_eq!(actions(&mut table), [RELEASE]);
}
