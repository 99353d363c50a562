//! How many regions HIXL's communicators take: 256 registrations, and the pieces of one allocation are one.

mod hixl_ends;

use std::time::Duration;

use hixl_ends::*;
use ropeway::{BlockId, Engine, LeaseOptions, Rights, Strided, Submit, TransportKind};
use ropeway_ascend::NpuConfig;
use ropeway_ascend::hixl::offer::{Api, Mode};
use ropeway_core::ErrorKind;
use ropeway_testkit::cann::SimCann;
use ropeway_testkit::simulator::Simulator;

const PIECE: u64 = 64 << 10;
const LAYERS: u64 = 300;

fn communicators() -> SimCann {
    SimCann::default().release("9.0.0").chip("a2")
}

/// An engine whose cache has one region for each layer, all in one allocation.
fn side(simulator: &Simulator, device: u32) -> (Engine, ropeway::Cache, ropeway::Region) {
    let npu = NpuConfig::new(device)
        .with_cann_path(simulator.root())
        .with_hccn_conf(simulator.root().join("etc/node0/hccn.conf"))
        .with_node("node0")
        .with_address([127, 0, 0, 1].into())
        .with_hold(Duration::from_millis(50));
    let here = "127.0.0.1:0".parse().unwrap();
    let engine = Engine::builder().listen(here).npu(npu).transports(&[TransportKind::Hixl]).open().unwrap();
    let slab = engine.npu().unwrap().alloc(LAYERS * PIECE).unwrap();
    let base = slab.device().unwrap().address();
    let mut cache = engine.cache("kv").group("g", 1);
    let mut last = None;
    for layer in 0..LAYERS {
        // SAFETY: the keep-alive holds the allocation.
        let region =
            unsafe { engine.register_npu(base + layer * PIECE, PIECE, Box::new(slab.clone())) }.unwrap();
        cache = cache.part(format!("l{layer}").as_str(), &region, Strided::dense(0, 4096, 16));
        last = Some(region);
    }
    let cache = cache.publish().unwrap();
    (engine, cache, last.unwrap())
}

#[test]
fn three_hundred_pieces_of_one_allocation_are_one_registration() {
    let Some(simulator) = of("hixl: slab of 300 layers", &communicators()) else { return };
    let _shared = simulator.shared();
    let ((owner, theirs, from), (importer, ours, into)) = (side(simulator, 1), side(simulator, 0));
    from.fill(0, PIECE, 7).unwrap();
    let peer = importer.connect(&owner.descriptor(), WAIT).unwrap().wait().unwrap();
    let route = peer.route(&ours, "kv", WAIT).unwrap().wait().unwrap();
    let blocks: Vec<_> = (0..16).map(BlockId).collect();
    let lease = theirs.lease(&[&blocks], Rights::Read, LeaseOptions::default()).unwrap();
    let grant = peer.claim(&lease.token(), WAIT).unwrap().wait().unwrap();
    let plan = route.read(&grant, &[&blocks], &[&blocks]).unwrap();
    plan.submit(Submit::default()).unwrap().wait(WAIT).unwrap().unwrap();
    let mut bytes = vec![0; PIECE as usize];
    into.read(0, &mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 7));
}

#[test]
fn communicators_take_256_allocations_and_then_say_so() {
    let Some(simulator) = of("hixl: limit of registrations", &communicators()) else { return };
    let _shared = simulator.shared();
    let open = |device| End::open(simulator, device, Api::Class, |_| {});
    let (one, two) = (open(0), open(1));
    assert_eq!((one.facts().mode, one.native.limits().regions), (Mode::Communicator, Some(256)));
    let (mut from, _to) = prepare(&one, &two);
    let more: Vec<_> = (0..256).map(|_| one.npu.alloc(4096).unwrap()).collect();
    for (slot, memory) in more[1..].iter().enumerate() {
        // The region of this end is the first.
        from.mover().register(id(100 + slot as u32), memory).unwrap();
    }
    let error = from.mover().register(id(99), &more[0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full);
    assert!(error.message().contains("256 regions"), "{error}");
    // A piece of one that is there needs no room.
    from.mover().register(id(99), &more[1]).unwrap();
    from.mover().deregister(id(99)).unwrap();
    (100..355).for_each(|slot| from.mover().deregister(id(slot)).unwrap());
}
