//! HCCL between two ranks: root info, configuration, matched sends and receives in the order of streams.

mod links;

use std::sync::{Mutex, MutexGuard, PoisonError};

use ascend_sim::acl::stream::*;
use ascend_sim::ffi::{In, Out};
use ascend_sim::hbm::Range;
use ascend_sim::hccl::ffi::*;
use ascend_sim::hccl::{RootInfo, SendRecvItem};
use links::*;

const OK: u32 = 0;
const PARA: u32 = 1;
const PTR: u32 = 2;
const MEMORY: u32 = 3;
const NOT_SUPPORT: u32 = 5;
const UNAVAIL: u32 = 7;
const AGAIN: u32 = 20;
const REMOTE: u32 = 21;
const SUSPENDING: u32 = 22;

const INT8: u32 = 0;
const FP32: u32 = 4;

/// The configuration's bytes: 9.1's, with small buffers.
fn config(version: u32, size: u64) -> Vec<u8> {
    let mut bytes = vec![0_u8; 2248];
    bytes[..8].copy_from_slice(&size.to_ne_bytes());
    bytes[8..12].copy_from_slice(&0xF0F0_F0F0_u32.to_ne_bytes());
    bytes[12..16].copy_from_slice(&version.to_ne_bytes());
    bytes[24..28].copy_from_slice(&1_u32.to_ne_bytes());
    for at in [28, 288, 292, 296, 300, 316, 2228] {
        bytes[at..at + 4].copy_from_slice(&u32::MAX.to_ne_bytes());
    }
    bytes
}

fn root() -> RootInfo {
    let mut info = RootInfo { internal: [1; 4108] };
    assert_eq!(sim_HcclGetRootInfo(Out::from(&mut info)), OK);
    info
}

fn join(info: &RootInfo, ranks: u32, rank: u32, config: &[u8]) -> Result<usize, u32> {
    let mut handle = 0;
    let out = Out::from(&mut handle);
    match sim_HcclCommInitRootInfoConfig(ranks, In::from(info), rank, In::from(config), out) {
        OK => Ok(handle),
        other => Err(other),
    }
}

/// A rank with a stream and 2 MiB of memory, on the device that its thread is bound to.
struct Rank {
    device: i32,
    comm: usize,
    stream: usize,
    memory: Range,
}

impl Rank {
    fn new(device: i32, comm: usize) -> Self {
        let mut stream = 0;
        assert_eq!(sim_aclrtCreateStream(Out::from(&mut stream)), 0);
        Self { device, comm, stream, memory: hbm(device, 2 << 20) }
    }

    fn send(&self, offset: u64, count: u64, kind: u32) -> u32 {
        on(self.device);
        sim_HcclSend(self.memory.va + offset, count, kind, 1 - self.rank(), self.comm, self.stream)
    }

    fn receive(&self, offset: u64, count: u64, kind: u32) -> u32 {
        on(self.device);
        sim_HcclRecv(self.memory.va + offset, count, kind, 1 - self.rank(), self.comm, self.stream)
    }

    fn rank(&self) -> u32 {
        let mut rank = 9;
        assert_eq!(sim_HcclGetRankId(self.comm, Out::from(&mut rank)), OK);
        rank
    }

    fn sync(&self, ms: i32) -> i32 {
        on(self.device);
        sim_aclrtSynchronizeStreamWithTimeout(self.stream, ms)
    }

    fn abort(&self) {
        on(self.device);
        assert_eq!(sim_aclrtStreamAbort(self.stream), 0);
    }

    fn destroy(&self) -> u32 {
        sim_HcclCommDestroy(self.comm)
    }
}

/// Communicators of one NPU are made one after the other; tests share NPUs.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Two ranks on two devices of this process.
fn pair(devices: [i32; 2]) -> [Rank; 2] {
    machine("a2", "");
    let _alone = alone();
    on(devices[0]);
    let (info, config) = (root(), config(10, 2240));
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            on(devices[1]);
            Rank::new(devices[1], join(&info, 2, 1, &config).unwrap())
        });
        let first = Rank::new(devices[0], join(&info, 2, 0, &config).unwrap());
        [first, other.join().unwrap()]
    })
}

const STREAM_SYNC_TIMEOUT: i32 = 507_046;

#[test]
fn a_send_arrives_in_the_receive_that_matches_it() {
    let [a, b] = pair([0, 1]);
    fill(a.memory.va, 65_536, 3);
    assert_eq!((a.send(0, 16_384, FP32), b.receive(4096, 65_536, INT8)), (OK, OK));
    assert_eq!((a.sync(PATIENCE), b.sync(PATIENCE)), (0, 0));
    assert_eq!(bytes(b.memory.va + 4096, 65_536), bytes(a.memory.va, 65_536));
    assert_eq!((a.destroy(), b.destroy()), (OK, OK));
}

#[test]
fn a_send_waits_for_its_receive_and_the_stream_behind_it() {
    let [a, b] = pair([0, 1]);
    fill(a.memory.va, 64, 3);
    assert_eq!(a.send(0, 64, INT8), OK);
    assert_eq!(a.sync(50), STREAM_SYNC_TIMEOUT);
    assert_eq!(a.destroy(), AGAIN);
    assert_eq!(b.receive(0, 64, INT8), OK);
    assert_eq!((a.sync(PATIENCE), b.sync(PATIENCE)), (0, 0));
    assert_eq!(a.destroy(), OK);
}

#[test]
fn matching_follows_the_order_of_calls() {
    let [a, b] = pair([0, 1]);
    for i in 0..8 {
        fill(a.memory.va + i * 4096, 4096, i as u8);
        assert_eq!(b.receive(i * 4096, 4096, INT8), OK);
    }
    for i in 0..8 {
        assert_eq!(a.send((7 - i) * 4096, 4096, INT8), OK);
    }
    assert_eq!((a.sync(PATIENCE), b.sync(PATIENCE)), (0, 0));
    for i in 0..8 {
        assert_eq!(bytes(b.memory.va + i * 4096, 1), bytes(a.memory.va + (7 - i) * 4096, 1));
    }
}

#[test]
fn a_batch_sends_and_receives_side_by_side() {
    let ranks = pair([0, 1]);
    for (index, rank) in ranks.iter().enumerate() {
        fill(rank.memory.va, 8192, index as u8 + 1);
        on(rank.device);
        let item = |kind, offset, count| SendRecvItem {
            kind,
            buffer: rank.memory.va + offset,
            count,
            data_type: INT8,
            rank: 1 - index as u32,
        };
        let items = [item(0, 0, 8192), item(1, 65_536, 8192)];
        assert_eq!(sim_HcclBatchSendRecv(In::from(&items[..]), 2, rank.comm, rank.stream), OK);
    }
    for (rank, other) in [(&ranks[0], &ranks[1]), (&ranks[1], &ranks[0])] {
        assert_eq!(rank.sync(PATIENCE), 0);
        assert_eq!(bytes(rank.memory.va + 65_536, 8192), bytes(other.memory.va, 8192));
    }
}

#[test]
fn lengths_that_differ_fail_both_streams() {
    let [a, b] = pair([0, 1]);
    assert_eq!((a.send(0, 64, INT8), b.receive(0, 128, INT8)), (OK, OK));
    assert_ne!(a.sync(PATIENCE), 0);
    assert_ne!(b.sync(PATIENCE), 0);
}

#[test]
fn a_receive_whose_stream_was_aborted_takes_no_bytes() {
    let [a, b] = pair([0, 1]);
    fill(a.memory.va, 64, 7);
    let before = bytes(b.memory.va, 64);
    assert_eq!(b.receive(0, 64, INT8), OK);
    b.abort();
    assert_eq!(a.send(0, 64, INT8), OK);
    assert_ne!(a.sync(PATIENCE), 0);
    assert_eq!(bytes(b.memory.va, 64), before);
}

#[test]
fn wrong_calls_are_refused_and_do_not_count() {
    let [a, b] = pair([0, 1]);
    on(0);
    let send = |buffer, kind, to, comm| sim_HcclSend(buffer, 64, kind, to, comm, a.stream);
    assert_eq!(send(a.memory.va, 99, 1, a.comm), PARA);
    assert_eq!(send(a.memory.va, INT8, 0, a.comm), PARA, "its own rank");
    assert_eq!(send(a.memory.va, INT8, 2, a.comm), PARA, "no such rank");
    assert_eq!(send(0, INT8, 1, a.comm), PTR);
    assert_eq!(send(a.memory.va, INT8, 1, 0), PTR);
    assert_eq!(send(4096, INT8, 1, a.comm), PARA, "no device memory");
    fill(a.memory.va, 64, 8);
    assert_eq!((a.send(0, 64, INT8), b.receive(0, 64, INT8)), (OK, OK));
    assert_eq!((a.sync(PATIENCE), b.sync(PATIENCE)), (0, 0));
    assert_eq!(bytes(b.memory.va, 64), bytes(a.memory.va, 64));
}

#[test]
fn a_configuration_declares_its_version_and_size() {
    machine("a2", "");
    on(2);
    let _alone = alone();
    for (version, size) in [(8, 2104), (10, 2240)] {
        let comm = join(&root(), 1, 0, &config(version, size)).unwrap();
        assert_eq!(sim_HcclCommDestroy(comm), OK);
        let mut size = 0;
        assert_eq!(sim_HcclGetRankSize(comm, Out::from(&mut size)), PARA, "it is gone");
    }
    let info = root();
    for (version, size) in [(10, 2104), (11, 2248), (0, 0)] {
        assert_eq!(join(&info, 1, 0, &config(version, size)), Err(PARA), "{version} {size}");
    }
    let mut no_magic = config(10, 2240);
    no_magic[8] = 0;
    assert_eq!(join(&info, 1, 0, &no_magic), Err(PARA));
}

#[test]
fn ranks_must_fit_and_one_npu_is_one_rank() {
    machine("a2", "");
    on(3);
    let _alone = alone();
    let info = root();
    let config = config(10, 2240);
    assert_eq!(join(&info, 2, 2, &config), Err(PARA));
    assert_eq!(join(&RootInfo { internal: [0; 4108] }, 2, 0, &config), Err(PARA));
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| {
            on(4);
            join(&info, 2, 0, &config)
        });
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert_eq!(join(&info, 3, 1, &config), Err(PARA), "another number of ranks");
        assert_eq!(join(&info, 2, 0, &config), Err(PARA), "a rank that is taken");
        assert!(join(&info, 2, 1, &config).is_ok());
        assert!(waits.join().unwrap().is_ok());
    });
}

#[test]
fn buffers_are_taken_from_the_device_with_the_first_operation() {
    let [a, b] = pair([6, 7]);
    let hbm = &ascend_sim::runtime::runtime().unwrap().hbm;
    let room = || hbm.room(a.memory.key).unwrap().0;
    let before = room();
    let rest = hbm.alloc(a.memory.key, before - (1 << 20), 1, ascend_sim::hbm::Page::Normal).unwrap();
    assert_eq!(a.send(0, 64, INT8), MEMORY);
    hbm.free(rest.va).unwrap();
    assert_eq!((a.send(0, 64, INT8), b.receive(0, 64, INT8)), (OK, OK));
    assert_eq!((a.sync(PATIENCE), b.sync(PATIENCE)), (0, 0));
    assert_eq!(before - room(), 2 << 20, "twice the megabyte that was asked for");
    assert_eq!(a.destroy(), OK);
    assert_eq!(room(), before);
}

#[test]
fn a_hang_holds_the_stream_until_it_is_aborted() {
    let [a, b] = pair([0, 5]);
    {
        let _script = faults("hang op=receive device=5 count=1");
        assert_eq!((a.send(0, 64, INT8), b.receive(0, 64, INT8)), (OK, OK));
    }
    assert_eq!(b.sync(50), STREAM_SYNC_TIMEOUT);
    assert_eq!(b.destroy(), AGAIN);
    b.abort();
    a.abort();
    eventually(|| b.destroy() == OK);
    eventually(|| a.destroy() == OK);
}

#[test]
fn two_communicators_of_one_npu_are_not_made_at_once() {
    machine("a2", "");
    on(2);
    let _alone = alone();
    let (info, config) = (root(), config(10, 2240));
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| {
            on(2);
            // The one below may come first.
            std::iter::repeat_with(|| join(&info, 2, 0, &config)).find(|made| *made != Err(UNAVAIL)).unwrap()
        });
        eventually(|| join(&root(), 1, 0, &config) == Err(UNAVAIL));
        on(1);
        assert!(join(&info, 2, 1, &config).is_ok());
        assert!(waits.join().unwrap().is_ok());
    });
}

#[test]
fn a_suspended_communicator_takes_nothing() {
    let [a, b] = pair([0, 1]);
    assert_eq!(sim_HcclCommSuspend(a.comm), OK);
    assert_eq!(a.send(0, 64, INT8), SUSPENDING);
    assert_eq!(sim_HcclCommResume(a.comm), OK);
    assert_eq!((a.send(0, 64, INT8), b.receive(0, 64, INT8)), (OK, OK));
    assert_eq!((a.sync(PATIENCE), b.sync(PATIENCE)), (0, 0));
}

#[test]
fn names_and_what_is_not_played_say_so() {
    let [a, _b] = pair([0, 1]);
    let mut name = [0; 128];
    assert_eq!(sim_HcclGetCommName(a.comm, Out::from(&mut name[..])), OK);
    assert_ne!(name[0], 0);
    // SAFETY: the texts live for ever and end in NUL.
    let text = |code| unsafe { std::ffi::CStr::from_ptr(sim_HcclGetErrorString(code)) };
    assert_eq!(text(AGAIN).to_str(), Ok("busy, try again"));
    assert_eq!(text(77).to_str(), Ok("unknown error"));
    assert_eq!(sim_HcclBarrier(a.comm, 0), NOT_SUPPORT);
    assert_eq!(sim_HcclCommInitAll(1, In::null(), Out::null()), NOT_SUPPORT);
}

/// The other rank, in a process of its own.
#[test]
fn a_part_for_another_process() {
    if part().is_none() {
        return;
    }
    machine("a2", "");
    on(1);
    say("ready");
    let words = listen().unwrap();
    let mut info = RootInfo { internal: [0; 4108] };
    for (to, from) in info.internal.iter_mut().zip(words[0].bytes()) {
        *to = from;
    }
    let rank = Rank::new(1, join(&info, 2, 1, &config(10, 2240)).unwrap());
    assert_eq!(rank.receive(0, 65_536, INT8), OK);
    assert_eq!(rank.sync(PATIENCE), 0);
    say(&format!("{}", bytes(rank.memory.va, 1)[0]));
    listen();
}

#[test]
fn a_rank_of_another_process_receives_and_its_death_is_an_error_of_a_remote_rank() {
    let mut child = Child::new("a_part_for_another_process", "rank", "two");
    assert_eq!(child.hear(), ["ready"]);
    machine("a2", "");
    on(0);
    let info = root();
    let text: Vec<u8> = info.internal.iter().copied().take_while(|byte| *byte != 0).collect();
    let text = String::from_utf8(text).unwrap();
    let alone = alone();
    let (said, rank) = std::thread::scope(|scope| {
        let told = scope.spawn(|| child.ask(&text));
        let rank = Rank::new(0, join(&info, 2, 0, &config(10, 2240)).unwrap());
        fill(rank.memory.va, 65_536, 42);
        assert_eq!(rank.send(0, 65_536, INT8), OK);
        assert_eq!(rank.sync(PATIENCE), 0);
        (told.join().unwrap(), rank)
    });
    drop(alone);
    assert_eq!(said, ["42"]);
    child.kill();
    let error = || {
        let mut error = 99;
        assert_eq!(sim_HcclGetCommAsyncError(rank.comm, Out::from(&mut error)), OK);
        error
    };
    assert_eq!(error(), OK);
    assert_eq!(rank.send(0, 64, INT8), OK);
    eventually(|| error() == REMOTE);
    assert_eq!(rank.sync(50), STREAM_SYNC_TIMEOUT, "a dead rank hangs its peer");
    assert_eq!(rank.destroy(), AGAIN);
    rank.abort();
    eventually(|| rank.destroy() == OK);
}

#[test]
fn scripted_calls_are_refused_with_the_numbers_of_their_faults() {
    let [a, b] = pair([2, 3]);
    for (script, code) in [
        ("device_lost op=HcclSend count=1", 15),
        ("refuse op=HcclSend code=9 count=1", 9),
        ("alloc_fail op=buffers device=2 count=1", MEMORY),
    ] {
        let _script = faults(script);
        assert_eq!(a.send(0, 64, INT8), code, "{script}");
    }
    assert_eq!((a.send(0, 64, INT8), b.receive(0, 64, INT8)), (OK, OK));
    assert_eq!((a.sync(PATIENCE), b.sync(PATIENCE)), (0, 0));
    let info = root();
    for (script, code) in [("out_of_streams", 15), ("blackhole_connect ms=20", 9)] {
        let _script = faults(&format!("{script} device=2 count=1"));
        on(2);
        assert_eq!(join(&info, 2, 0, &config(10, 2240)), Err(code), "{script}");
    }
}

#[test]
fn scripted_copies_end_with_the_errors_of_their_faults() {
    for (script, theirs) in [
        ("ecc op=receive device=5", 507_054),
        ("device_lost op=receive device=5", 507_010),
        ("partial_write op=receive device=5 fraction=0.5", 507_899),
        ("partial_write op=receive device=5 fraction=0.5 code=0", 0),
    ] {
        let [a, b] = pair([4, 5]);
        fill(a.memory.va, 64, 9);
        fill(b.memory.va, 64, 1);
        let (sent, before) = (bytes(a.memory.va, 64), bytes(b.memory.va, 64));
        let script = faults(&format!("{script} count=1"));
        assert_eq!((a.send(0, 64, INT8), b.receive(0, 64, INT8)), (OK, OK));
        assert_eq!(b.sync(PATIENCE), theirs);
        drop(script);
        let moved = if theirs == 507_899 || theirs == 0 { 32 } else { 0 };
        let got = bytes(b.memory.va, 64);
        assert_eq!((&got[..moved], &got[moved..]), (&sent[..moved], &before[moved..]));
        a.abort();
        eventually(|| a.destroy() == OK && b.destroy() == OK);
    }
}

#[test]
fn a_lost_link_holds_the_stream_and_is_an_asynchronous_error() {
    let [a, b] = pair([6, 7]);
    {
        let _script = faults("lost_link op=receive device=7 count=1");
        assert_eq!((a.send(0, 64, INT8), b.receive(0, 64, INT8)), (OK, OK));
        assert_eq!(b.sync(50), STREAM_SYNC_TIMEOUT);
    }
    let mut error = 0;
    assert_eq!(sim_HcclGetCommAsyncError(b.comm, Out::from(&mut error)), OK);
    assert_eq!(error, REMOTE);
    a.abort();
    b.abort();
    eventually(|| b.destroy() == OK);
    eventually(|| a.destroy() == OK);
}
