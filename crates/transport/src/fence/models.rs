//! loom models of the fence protocol: never does the owner see it free while a copy goes on.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering, fence};
use ropeway_core::{GrantId, Op, Rights};

use super::{Cells, Fence};

const GRANT: GrantId = GrantId { slot: 0, generation: 3 };

#[test]
fn loom_a_revoked_write_lease_is_not_free_while_a_copy_goes_on() {
    loom::model(|| {
        let fence = Fence::private(1, 1);
        fence.open(GRANT, Rights::Write).unwrap();
        let gate = fence.open_gate().unwrap();
        let view = fence.view().clone();
        let cells = Arc::new(Cells::private());
        let seen = cells.view();
        // What the copy writes; the owner writes it, too, once it holds it for free.
        let block = Arc::new(loom::cell::UnsafeCell::new(0));
        let theirs = Arc::clone(&block);
        let writer = loom::thread::spawn(move || {
            if let Some(Ok(_entered)) = cells.enter(&view, gate, GRANT, Op::Write) {
                // SAFETY: loom checks that nobody else has it: that is the model's claim.
                theirs.with_mut(|block| unsafe { *block = 1 });
            }
        });
        fence.close(GRANT);
        if !seen.named_by(GRANT) {
            // SAFETY: as above.
            block.with_mut(|block| unsafe { *block = 2 });
        }
        writer.join().unwrap();
    });
}

#[test]
fn loom_a_closed_gate_is_not_over_while_a_copy_goes_on() {
    loom::model(|| {
        let fence = Fence::private(1, 1);
        fence.open(GRANT, Rights::Write).unwrap();
        let gate = fence.open_gate().unwrap();
        let view = fence.view().clone();
        let cells = Arc::new(Cells::private());
        let seen = cells.view();
        let block = Arc::new(loom::cell::UnsafeCell::new(0));
        let theirs = Arc::clone(&block);
        let writer = loom::thread::spawn(move || {
            if let Some(Ok(_entered)) = cells.enter(&view, gate, GRANT, Op::Write) {
                // SAFETY: loom checks that nobody else has it: that is the model's claim.
                theirs.with_mut(|block| unsafe { *block = 1 });
            }
        });
        fence.close_gate(gate);
        if !seen.is_busy() {
            // SAFETY: as above.
            block.with_mut(|block| unsafe { *block = 2 });
        }
        writer.join().unwrap();
    });
}

#[test]
fn loom_a_confirmed_read_holds_what_was_lent() {
    loom::model(|| {
        let owner = Fence::private(1, 1);
        owner.open(GRANT, Rights::Read).unwrap();
        let gate = owner.open_gate().unwrap();
        let view = owner.view().clone();
        let cells = Cells::private();
        let block = Arc::new(AtomicU64::new(7));
        let lent = Arc::clone(&block);
        let reader = loom::thread::spawn(move || {
            if let Some(Ok(entered)) = cells.enter(&view, gate, GRANT, Op::Read) {
                let read = lent.load(Ordering::Relaxed);
                if entered.confirm().is_ok() {
                    assert_eq!(read, 7, "another tenant's bytes were surfaced");
                }
            }
        });
        owner.close(GRANT);
        // A read lease is free at once: the block has its next tenant.
        block.store(8, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        reader.join().unwrap();
    });
}
