//! Plans of the peer's batches, as their pieces come. Untrusted: few, of a known size, in pieces that are not small.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};

use super::wire::PLAN_PIECE;

/// Plans that may be here at a time. A peer asks for one batch at a time, and its plan is forgotten with it.
const PLANS_MAX: usize = 2;

#[derive(Default)]
pub(super) struct Plans(HashMap<u64, Plan>);

enum Plan {
    Part { total: u32, bytes: BytesMut },
    Whole(Bytes),
}

impl Plans {
    /// The next piece of a batch's plan: all but the last have the full size, so that a plan comes in few messages.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn add(&mut self, batch: u64, total: u32, piece: &[u8]) -> Result<(), &'static str> {
        let plan = match self.0.remove(&batch) {
            None if self.0.len() >= PLANS_MAX => return Err("the peer sent more plans than a link may have"),
            None => Plan::Part { total, bytes: BytesMut::new() },
            Some(plan) => plan,
        };
        let Plan::Part { total: whole, mut bytes } = plan else {
            return Err("the peer sent more of a plan than there is");
        };
        bytes.extend_from_slice(piece);
        let (have, total) = (bytes.len(), total as usize);
        if whole as usize != total || have > total || (have < total && piece.len() != PLAN_PIECE) {
            return Err("the peer sent pieces of a plan that do not fit");
        }
        let plan =
            if have == total { Plan::Whole(bytes.freeze()) } else { Plan::Part { total: whole, bytes } };
        self.0.insert(batch, plan);
        Ok(())
    }

    /// A plan that is here, whole.
    pub(super) fn whole(&self, batch: u64) -> Option<Bytes> {
        match self.0.get(&batch) {
            Some(Plan::Whole(bytes)) => Some(bytes.clone()),
            _ => None,
        }
    }

    pub(super) fn forget(&mut self, batch: u64) {
        self.0.remove(&batch);
    }
}
