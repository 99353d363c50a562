use std::os::fd::AsFd;

use ropeway_core::{ErrorKind, GrantId, Op, Rights};
use rustix::fs::{MemfdFlags, SealFlags};

use super::*;

const GRANT: GrantId = GrantId { slot: 3, generation: 5 };

fn fence() -> Fence {
    Fence::shared(4, 8, 77).unwrap()
}

fn peer_of(fence: &Fence) -> FenceView {
    FenceView::map(fence.fd().unwrap().try_clone_to_owned().unwrap(), 4, 8).unwrap()
}

#[test]
fn a_grant_is_open_for_its_rights_and_generation_only_and_until_closed() {
    let fence = fence();
    let peer = peer_of(&fence);
    fence.open(GRANT, Rights::Read).unwrap();
    assert!(peer.is_open(GRANT, Op::Read));
    assert!(!peer.is_open(GRANT, Op::Write));
    for generation in [4, 6] {
        assert!(!peer.is_open(GrantId { generation, ..GRANT }, Op::Read));
    }
    fence.close(GrantId { generation: 4, ..GRANT });
    assert!(peer.is_open(GRANT, Op::Read), "the slot has another tenant than the one closed");
    fence.close(GRANT);
    assert!(!peer.is_open(GRANT, Op::Read));
    assert!(!fence.may_write(GRANT), "closed, it is still known to be for reading");
    assert!(fence.may_write(GrantId { generation: 4, ..GRANT }), "of unknown grants the worst is assumed");
}

#[test]
fn a_slot_beyond_the_segment_is_refused_and_never_open() {
    let fence = fence();
    let beyond = GrantId { slot: 8, generation: 1 };
    assert_eq!(fence.open(beyond, Rights::Read).unwrap_err().kind(), ErrorKind::ApiMisuse);
    assert!(!peer_of(&fence).is_open(beyond, Op::Read));
    assert!(!peer_of(&fence).is_gate_open(GateId { slot: 4, generation: 1 }));
}

#[test]
fn an_access_goes_in_only_through_an_open_gate_and_grant_and_is_seen_while_inside() {
    let fence = fence();
    let view = peer_of(&fence);
    let cells = Cells::shared(5).unwrap();
    let seen = CellsView::map(cells.fd().unwrap().try_clone_to_owned().unwrap()).unwrap();
    let gate = fence.open_gate().unwrap();
    let enter = |op| cells.enter(&view, gate, GRANT, op).unwrap().map(drop);
    assert_eq!(enter(Op::Read), Err(Stale::Grant));
    fence.open(GRANT, Rights::Write).unwrap();
    assert_eq!(enter(Op::Read), Err(Stale::Grant));
    let entered = cells.enter(&view, gate, GRANT, Op::Write).unwrap().unwrap();
    assert!(seen.named_by(GRANT) && seen.is_busy());
    assert!(!seen.named_by(GrantId { generation: 6, ..GRANT }));
    assert_eq!(entered.confirm(), Ok(()));
    fence.close(GRANT);
    assert_eq!(entered.confirm(), Err(Stale::Grant));
    drop(entered);
    assert!(!seen.is_busy());
    fence.open(GRANT, Rights::Write).unwrap();
    fence.close_gate(gate);
    assert_eq!(enter(Op::Write), Err(Stale::Gate));
    assert!(!seen.is_busy(), "a refused access leaves no trace");
}

#[test]
fn all_cells_taken_is_no_entry() {
    let fence = Fence::private(1, 8);
    fence.open(GRANT, Rights::Read).unwrap();
    let (cells, gate) = (Cells::private(), fence.open_gate().unwrap());
    let inside: Vec<_> =
        (0..CELLS).map(|_| cells.enter(fence.view(), gate, GRANT, Op::Read).unwrap().unwrap()).collect();
    assert!(cells.enter(fence.view(), gate, GRANT, Op::Read).is_none());
    drop(inside);
    assert!(cells.enter(fence.view(), gate, GRANT, Op::Read).is_some());
}

#[test]
fn gates_are_limited_and_a_recycled_one_shuts_its_former_link_out() {
    let fence = fence();
    let gates: Vec<_> = (0..4).map(|_| fence.open_gate().unwrap()).collect();
    assert_eq!(fence.open_gate().unwrap_err().kind(), ErrorKind::Full);
    fence.close_gate(gates[2]);
    fence.recycle_gate(gates[2]);
    let next = fence.open_gate().unwrap();
    assert_eq!(next.slot, gates[2].slot);
    assert!(fence.view().is_gate_open(next) && !fence.view().is_gate_open(gates[2]));
}

#[test]
fn a_peer_can_neither_write_nor_resize_nor_punch_the_segment() {
    let fence = fence();
    let file = std::fs::File::from(fence.fd().unwrap().try_clone_to_owned().unwrap());
    assert!(memmap2::MmapOptions::new().map_raw(&file).is_err(), "a writable map");
    assert!(file.set_len(0).is_err(), "a truncation");
    let punch = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    assert!(rustix::fs::fallocate(&file, punch, 0, 4096).is_err(), "a hole");
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    let again = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    assert!(memmap2::MmapOptions::new().map_raw(&again).is_err(), "a writable map of a reopened one");
}

#[test]
fn an_unsealed_short_or_foreign_segment_of_a_peer_is_refused() {
    let words = 8 + 4 + 8;
    let make = |bytes: u64, seals: SealFlags| {
        let fd = rustix::fs::memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&fd, bytes).unwrap();
        rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
        fd
    };
    let all = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL;
    let kind = |fd| FenceView::map(fd, 4, 8).err().map(|error| (error.kind(), error.message().to_owned()));
    for missing in [SealFlags::SHRINK, SealFlags::GROW, SealFlags::FUTURE_WRITE, SealFlags::SEAL] {
        let (kind, message) = kind(make(words * 8, all & !missing)).expect("refused");
        assert_eq!(kind, ErrorKind::Protocol);
        assert!(message.contains("seals"), "{message}");
    }
    for bytes in [0, words * 8 - 1, words * 8 + 4096] {
        let (_, message) = kind(make(bytes, all)).expect("refused");
        assert!(message.contains("bytes"), "{message}");
    }
    assert!(kind(make(words * 8, all)).expect("refused").1.contains("header"));
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    assert!(kind(file.as_fd().try_clone_to_owned().unwrap()).is_some(), "no memfd at all");
}
