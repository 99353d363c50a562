//! Rows put in order within an NPU's memory, on the software CANN.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{WAIT, npu, simulator};
use ropeway_ascend::Npu;
use ropeway_core::plan::Rect;
use ropeway_core::{ErrorKind, Quiet};
use ropeway_transport::Memory;

const LEN: u64 = 64 << 10;

fn filled(npu: &Arc<Npu>) -> (Arc<Memory>, Vec<u8>) {
    let bytes: Vec<u8> = (0..LEN).map(|at| (at % 251) as u8).collect();
    let memory = npu.alloc(LEN).unwrap();
    memory.write(0, &bytes).unwrap();
    (memory, bytes)
}

fn rect(offset: u64, rows: u32, row_bytes: u64, row_stride: u64) -> Rect {
    Rect { offset, rows, row_bytes, row_stride }
}

#[test]
fn rows_go_where_they_belong_and_nowhere_else() {
    let Some(simulator) = simulator("rearrange") else { return };
    let npu = npu(simulator, 0);
    let (from, bytes) = filled(&npu);
    let to = npu.alloc(LEN).unwrap();
    to.fill(0, LEN, 255).unwrap();
    // Strided to dense, dense to strided, one row, all rows touching, and the last byte of both.
    let pairs = vec![
        (rect(0, 16, 32, 32), rect(8, 16, 32, 128)),
        (rect(4096, 8, 64, 256), rect(4096, 8, 64, 64)),
        (rect(9000, 1, 1000, 1000), rect(1, 1, 1000, 1000)),
        (rect(16384, 4, 1024, 1024), rect(20480, 4, 1024, 1024)),
        (rect(LEN - 1, 1, 1, 1), rect(LEN - 1, 1, 1, 1)),
    ];
    let mut expected = vec![255; LEN as usize];
    for (there, here) in &pairs {
        for row in 0..u64::from(there.rows) {
            let (a, b) = (there.offset + row * there.row_stride, here.offset + row * here.row_stride);
            let width = there.row_bytes as usize;
            expected[a as usize..][..width].copy_from_slice(&bytes[b as usize..][..width]);
        }
    }
    npu.rearrange(&to, &from, pairs, WAIT).unwrap();
    let mut found = vec![0; LEN as usize];
    to.read(0, &mut found).unwrap();
    assert!(found == expected);
    // Within one range, too.
    npu.rearrange(&to, &to, vec![(rect(0, 2, 8, 16), rect(512, 2, 8, 8))], WAIT).unwrap();
    to.read(0, &mut found).unwrap();
    assert_eq!((&found[..8], &found[16..24]), (&expected[512..520], &expected[520..528]));
}

#[test]
fn rectangles_that_do_not_fit_are_refused_before_a_byte_moves() {
    let Some(simulator) = simulator("rearrange refused") else { return };
    let npu = npu(simulator, 0);
    let (from, _) = filled(&npu);
    let to = npu.alloc(LEN).unwrap();
    to.fill(0, LEN, 9).unwrap();
    let good = (rect(0, 1, 8, 8), rect(0, 1, 8, 8));
    for (wrong, kind) in [
        ((rect(0, 2, 8, 8), rect(0, 1, 16, 16)), ErrorKind::ApiMisuse),
        ((rect(LEN - 7, 1, 8, 8), rect(0, 1, 8, 8)), ErrorKind::OutOfBounds),
        ((rect(0, 2, 8, 8), rect(LEN - 15, 2, 8, 8)), ErrorKind::OutOfBounds),
        ((rect(0, 2, 8, 4), rect(0, 2, 8, 8)), ErrorKind::OutOfBounds),
        ((rect(0, u32::MAX, 8, u64::MAX), rect(0, u32::MAX, 8, 8)), ErrorKind::OutOfBounds),
    ] {
        let error = npu.rearrange(&to, &from, vec![good, wrong], WAIT).unwrap_err();
        assert_eq!(error.kind(), kind, "{wrong:?}: {error}");
    }
    let host = npu.alloc_pinned(LEN).unwrap();
    assert_eq!(npu.rearrange(&to, &host, vec![good], WAIT).unwrap_err().kind(), ErrorKind::ApiMisuse);
    let mut found = [0; 8];
    to.read(0, &mut found).unwrap();
    assert_eq!(found, [9; 8]);
}

#[test]
fn a_copy_that_times_out_is_over_when_it_says_so() {
    let Some(simulator) = simulator("rearrange timed out") else { return };
    let alone = simulator.alone();
    let npu = npu(simulator, 0);
    let (from, _) = filled(&npu);
    let to = npu.alloc(LEN).unwrap();
    alone.faults("slow op=aclrtMemcpyAsync ms=200 count=1");
    let one = vec![(rect(0, 1, 8, 8), rect(0, 1, 8, 8))];
    let error = npu.rearrange(&to, &from, one, Duration::from_millis(5)).unwrap_err();
    assert_eq!((error.kind(), error.local()), (ErrorKind::TimedOut, Quiet::Yes), "{error}");
    to.fill(0, 8, 9).unwrap();
    std::thread::sleep(Duration::from_millis(400));
    let mut found = [0; 8];
    to.read(0, &mut found).unwrap();
    assert_eq!(found, [9; 8], "the copy that was over wrote once more");
}

#[test]
fn a_copy_that_cannot_be_ended_leaves_its_memory_unquiet() {
    let Some(simulator) = simulator("rearrange unquiet") else { return };
    let alone = simulator.alone();
    let npu = npu(simulator, 0);
    let (from, _) = filled(&npu);
    let to = npu.alloc(LEN).unwrap();
    alone.faults("refuse op=aclrtSynchronizeStreamWithTimeout code=507010");
    let one = vec![(rect(0, 1, 8, 8), rect(0, 1, 8, 8))];
    let error = npu.rearrange(&to, &from, one, WAIT).unwrap_err();
    assert_eq!((error.native(), error.local()), (Some(507_010), Quiet::AfterClose), "{error}");
    alone.faults("");
}
