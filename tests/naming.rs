//! Leases that are asked for by name, before and after they are granted; and notes.

use std::time::Duration;

use ropeway::{
    BlockId, Cache, Engine, ErrorKind, Event, Grant, Host, Lease, LeaseOptions, Outcome, Peer, Region,
    Result, Retry, Rights, Start, Strided, Submit, TransportKind, lease_name,
};

const WAIT: Duration = Duration::from_secs(60);
const BLOCK: u64 = 4096;

struct Side {
    engine: Engine,
    region: Region,
    cache: Cache,
}

fn side() -> Side {
    let engine = Engine::builder().listen("127.0.0.1:0".parse().unwrap()).open().unwrap();
    let region = engine.alloc(Host::private(16 * BLOCK)).unwrap();
    let cache = engine.cache("kv").group("g0", 1).part("k", &region, Strided::dense(0, BLOCK, 16));
    let cache = cache.publish().unwrap();
    Side { engine, region, cache }
}

fn connect(from: &Side, to: &Side) -> Peer {
    from.engine.connect(&to.engine.descriptor(), WAIT).unwrap().wait().unwrap()
}

fn lend(owner: &Side, options: LeaseOptions) -> Result<Lease> {
    owner.cache.lease(&[&[BlockId(3), BlockId(9), BlockId(4)]], Rights::Read, options)
}

fn claim(peer: &Peer, name: &ropeway::LeaseName, holders: u32) -> Result<Grant> {
    peer.claim_named(name, holders, WAIT)?.wait()
}

#[test]
fn a_lease_is_claimed_by_a_name_that_was_told_before_it_was_granted() {
    let (owner, reader) = (side(), side());
    let peer = connect(&reader, &owner);
    let name = lease_name().unwrap();
    let early = claim(&peer, &name, 1).unwrap_err();
    assert_eq!(early.retry(), Retry::Later, "{early}");

    owner.region.fill(9 * BLOCK, BLOCK, 0x5a).unwrap();
    let lease = lend(&owner, LeaseOptions::default().name(name)).unwrap();
    let told: ropeway::LeaseName = name.to_string().parse().unwrap();
    let grant = claim(&peer, &told, 1).unwrap();
    assert_eq!(grant.blocks(), [[BlockId(3), BlockId(4), BlockId(9)]], "the owner's word, in order");
    let route = peer.route(&reader.cache, "kv", WAIT).unwrap().wait().unwrap();
    let plan = route.read(&grant, &[&[BlockId(0)]], &[&[BlockId(9)]]).unwrap();
    plan.submit(Submit::default()).unwrap().wait(WAIT).expect("done in time").unwrap();
    let mut block = [0; BLOCK as usize];
    reader.region.read(0, &mut block).unwrap();
    assert_eq!(block, [0x5a; BLOCK as usize]);
    drop((plan, grant));
    assert_eq!(lease.wait_free(WAIT).expect("released").outcome, Outcome::Done);

    let late = claim(&peer, &name, 1).unwrap_err();
    assert_eq!((late.kind(), late.retry()), (ErrorKind::StaleLease, Retry::Never), "{late}");
}

#[test]
fn a_named_lease_ends_when_as_many_have_released_it_as_the_first_said() {
    let (owner, one, other) = (side(), side(), side());
    let name = lease_name().unwrap();
    let lease = lend(&owner, LeaseOptions::default().name(name)).unwrap();
    drop(claim(&connect(&one, &owner), &name, 2).unwrap());
    let grant = claim(&connect(&other, &owner), &name, 2).unwrap();
    assert!(!lease.is_free());
    drop(grant);
    assert_eq!(lease.wait_free(WAIT).expect("both have released it").outcome, Outcome::Done);
}

#[test]
fn a_claim_by_name_waits_for_the_owners_event() {
    let (owner, reader) = (side(), side());
    let peer = connect(&reader, &owner);
    let (name, event) = (lease_name().unwrap(), Event::new());
    let options = LeaseOptions::default().name(name).start(Start::AfterEvent(event.clone()));
    let _lease = lend(&owner, options).unwrap();
    let mut claimed = std::pin::pin!(peer.claim_named(&name, 1, WAIT).unwrap());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(5));
        assert!(claimed.as_mut().poll(&mut context).is_pending(), "the blocks are not complete");
    }
    event.fire();
    let until = std::time::Instant::now() + WAIT;
    let grant = loop {
        match claimed.as_mut().poll(&mut context) {
            std::task::Poll::Ready(grant) => break grant.unwrap(),
            std::task::Poll::Pending if std::time::Instant::now() < until => std::thread::yield_now(),
            std::task::Poll::Pending => panic!("the event has fired, the claim is not answered"),
        }
    };
    assert_eq!(grant.rights(), Rights::Read);
}

#[test]
fn whoever_knows_only_half_a_name_is_denied() {
    let (owner, reader) = (side(), side());
    let peer = connect(&reader, &owner);
    let name = lease_name().unwrap();
    let _lease = lend(&owner, LeaseOptions::default().name(name)).unwrap();
    let wrong = ropeway::LeaseName { secret: name.secret ^ 1, ..name };
    assert_eq!(claim(&peer, &wrong, 1).unwrap_err().kind(), ErrorKind::Denied);
    claim(&peer, &name, 1).unwrap();
}

#[test]
fn a_note_is_read_as_last_shown() {
    let (owner, reader) = (side(), side());
    let peer = connect(&reader, &owner);
    let read = |name: &str| peer.note(name, WAIT).and_then(ropeway::Pending::wait);
    assert_eq!(read("ranks").unwrap_err().kind(), ErrorKind::Mismatch);
    owner.engine.show_note("ranks", "old").unwrap();
    owner.engine.show_note("ranks", vec![7; 200_000]).unwrap();
    assert_eq!(read("ranks").unwrap(), vec![7; 200_000]);
}

#[test]
fn notes_have_limits_that_are_named() {
    let engine = side().engine;
    let kind = |shown: Result<()>| shown.unwrap_err().kind();
    assert_eq!(kind(engine.show_note("x".repeat(65), "")), ErrorKind::ApiMisuse);
    assert_eq!(kind(engine.show_note("long", vec![0; (256 << 10) + 1])), ErrorKind::ApiMisuse);
    for number in 0..64 {
        engine.show_note(number.to_string(), "").unwrap();
    }
    assert_eq!(kind(engine.show_note("one more", "")), ErrorKind::Full);
    engine.show_note("0", "again").unwrap();
}

#[test]
fn a_connection_for_control_needs_no_transport_in_common_and_carries_no_blocks() {
    let engine = |kinds: &[TransportKind]| {
        let builder = Engine::builder().listen("127.0.0.1:0".parse().unwrap());
        builder.transports(kinds).open().unwrap()
    };
    let (owner, reader) = (engine(&[]), engine(&[TransportKind::Tcp]));
    owner.show_note("table", &b"ranks"[..]).unwrap();
    let refused = reader.connect(&owner.descriptor(), WAIT).unwrap().wait().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::LinkLost, "{refused}");

    let peer = reader.connect_control(&owner.descriptor(), WAIT).unwrap().wait().unwrap();
    assert_eq!(peer.note("table", WAIT).unwrap().wait().unwrap(), &b"ranks"[..]);
    assert!(peer.is_connected() && peer.transports().is_empty());
    let region = reader.alloc(Host::private(16 * BLOCK)).unwrap();
    let cache = reader.cache("kv").group("g0", 1).part("k", &region, Strided::dense(0, BLOCK, 16));
    let cache = cache.publish().unwrap();
    assert!(peer.route(&cache, "kv", WAIT).unwrap().wait().is_err());
    peer.close(WAIT).unwrap();
}

#[test]
fn a_lease_that_is_claimed_over_a_connection_for_control_ends_by_word_and_by_its_end() {
    for by_word in [true, false] {
        let (owner, reader) = (side(), side());
        owner.region.fill(9 * BLOCK, BLOCK, 0x5a).unwrap();
        let name = lease_name().unwrap();
        let lease = lend(&owner, LeaseOptions::default().name(name)).unwrap();
        let peer = reader.engine.connect_control(&owner.engine.descriptor(), WAIT).unwrap().wait().unwrap();
        let grant = claim(&peer, &name, 1).unwrap();
        let route = peer.route(&reader.cache, "kv", WAIT).unwrap().wait().unwrap_err();
        assert!(route.to_string().contains("for control only"), "{route}");
        if by_word {
            drop(grant);
            assert_eq!(lease.wait_free(WAIT).expect("released").outcome, Outcome::Done);
        } else {
            let _ = reader.engine.close(WAIT).unwrap();
            assert!(lease.wait_free(WAIT).is_some(), "the session's end is proof enough");
        }
    }
}
