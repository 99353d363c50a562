//! Requests that the caller has not yet seen the end of.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::link::Link;
use super::status::{Outcome, PARAM_INVALID, transfer};
use crate::dma::Request;

/// What `TransferAsync` gave out.
#[derive(Default)]
pub(crate) struct Requests {
    open: BTreeMap<usize, Open>,
    last: usize,
}

struct Open {
    request: Arc<Request>,
    link: Arc<Link>,
    user_data: usize,
}

/// An answer to a query of many.
pub(crate) struct Answer {
    /// Which.
    pub(crate) request: usize,
    /// What the caller gave with it.
    pub(crate) user_data: usize,
    /// How it is.
    pub(crate) status: u32,
}

fn status_of(end: Option<bool>) -> u32 {
    match end {
        None => transfer::WAITING,
        Some(true) => transfer::COMPLETED,
        Some(false) => transfer::FAILED,
    }
}

impl Requests {
    /// Keeps a request; its number is never given again.
    pub(crate) fn add(&mut self, request: Arc<Request>, link: Arc<Link>, user_data: usize) -> usize {
        self.last += 1;
        // Looks like an aligned pointer, and is none.
        let number = self.last << 4;
        self.open.insert(number, Open { request, link, user_data });
        number
    }

    /// How a request is. Its end is told once: then it is no longer known.
    pub(crate) fn status(&mut self, number: usize) -> Outcome<u32> {
        let status = status_of(self.open.get(&number).ok_or(PARAM_INVALID)?.request.end());
        if status != transfer::WAITING {
            self.open.remove(&number);
        }
        Ok(status)
    }

    /// How many are known.
    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    /// How at most `most` of them are, oldest first; ends are told once.
    pub(crate) fn statuses(&mut self, most: usize, skip_waiting: bool) -> Vec<Answer> {
        let answers = self.open.iter().map(|(number, open)| {
            let status = status_of(open.request.end());
            Answer { request: *number, user_data: open.user_data, status }
        });
        let wanted = answers.filter(|answer| !skip_waiting || answer.status != transfer::WAITING);
        let answers: Vec<Answer> = wanted.take(most).collect();
        for answer in answers.iter().filter(|answer| answer.status != transfer::WAITING) {
            self.open.remove(&answer.request);
        }
        answers
    }

    /// Forgets those of a link.
    pub(crate) fn forget(&mut self, link: &Arc<Link>) {
        self.open.retain(|_, open| !Arc::ptr_eq(&open.link, link));
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.open.clear();
    }
}
