//! Transfers: checked and posted on the caller's thread, moved by the link's own.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::batch::{Op, Post, SimHixlDesc, Tables};
use super::endpoint::Engine as Kind;
use super::engine::{Engine, deadline};
use super::link::Link;
use super::status::{FAILED, Outcome, PARAM_INVALID, TIMEOUT};
use crate::dma::Request;

/// How long an asynchronous transfer may take to link on demand.
const CONNECT: Duration = Duration::from_secs(1);

impl Engine {
    /// `TransferSync`: the timeout bounds the wait for the end only, not the posting.
    pub(crate) fn transfer_sync(
        &self,
        remote: &str,
        op: Op,
        descs: &[SimHixlDesc],
        timeout_ms: i32,
    ) -> Outcome {
        deadline(timeout_ms)?;
        let timeout = Duration::from_millis(timeout_ms.unsigned_abs().into());
        let (link, request) = self.submit(remote, op, descs, Some(timeout))?;
        match request.wait(Instant::now() + timeout) {
            Some(true) => Ok(()),
            Some(false) => Err(FAILED),
            None => {
                // What is under way goes on: the caller's memory is not quiet.
                link.mover.latch();
                Err(TIMEOUT)
            }
        }
    }

    /// `TransferAsync`: no time limit, no buffers.
    pub(crate) fn transfer_async(
        &self,
        remote: &str,
        op: Op,
        descs: &[SimHixlDesc],
        user_data: usize,
    ) -> Outcome<usize> {
        let (link, request) = self.submit(remote, op, descs, None)?;
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(requests.add(request, link, user_data))
    }

    fn submit(
        &self,
        remote: &str,
        op: Op,
        descs: &[SimHixlDesc],
        timeout: Option<Duration>,
    ) -> Outcome<(Arc<Link>, Arc<Request>)> {
        if descs.is_empty() {
            return Err(PARAM_INVALID);
        }
        self.check_context()?;
        let link = self.link(remote, Instant::now() + timeout.unwrap_or(CONNECT))?;
        if link.mover.is_latched() {
            return Err(FAILED);
        }
        let buffers = self.options.staging && self.passive.identity.mode == Kind::Communicator;
        let staging =
            (timeout.is_some() && buffers).then_some((self.passive.identity.process, link.peer.process));
        let tables = Tables { near: &link.near, far: &link.far, way: link.way, staging };
        let batch = tables.check(op, descs.iter().copied())?;
        let post = Post { mover: &link.mover, anchor: &self.anchor, remote, gone: link.is_gone() };
        let request = post.post(op, batch, timeout)?;
        Ok((link, request))
    }
}
