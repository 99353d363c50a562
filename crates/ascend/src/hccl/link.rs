//! A link: its thread, and the engine's handle on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use crossbeam_channel::{Sender, bounded};
use ropeway_core::{Error, ErrorKind, GrantId, RegionId, Result, Status, TransferId};
use ropeway_transport::{
    Batch, Fenced, Link, LinkConfig, LinkSink, Memory, Refusal, Rejected, Role, State, TransportKind,
};

use super::comm::{ABORT, Communicator};
use super::hand::Hand;
use super::mailbox::{Teller, Told, mailbox};
use super::pins::Pins;
use super::setup::{NoLink, SetUp, destroy};
use super::wire::{Message, PLAN_BYTES_MAX};
use super::worker::{Command, End, Ended, Native, Ours, Worker};
use super::{Ends, Shared};
use crate::device::Bound;
use crate::hbm::HbmMemory;

/// What the thread and the handle share.
struct Core {
    shared: Arc<Shared>,
    ends: Ends,
    sink: Arc<dyn LinkSink>,
    pins: Pins,
    /// Batches that have not ended.
    open: AtomicUsize,
    over: AtomicBool,
}

/// The engine's handle.
pub(super) struct HcclLink {
    core: Arc<Core>,
    commands: Teller,
}

impl HcclLink {
    /// Starts the link's thread; on the active side, waits until it moves bytes.
    pub(super) fn open(shared: &Arc<Shared>, ends: Ends, config: LinkConfig) -> Result<Arc<Self>> {
        let (commands, told) = mailbox();
        let core = Arc::new(Core {
            shared: Arc::clone(shared),
            ends,
            sink: config.sink,
            pins: Pins::default(),
            open: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        });
        let (ready, is_ready) = bounded(1);
        let (working, role, until) = (Arc::clone(&core), config.role, config.deadline);
        let name = format!("npu{}-hccl", shared.device.user_id());
        std::thread::Builder::new()
            .name(name)
            .spawn(move || working.run(&told, role, until, &ready))
            .map_err(|error| Error::os("link over HCCL", "its thread cannot be started", error))?;
        // The session holds the inbox: it must not hold the link.
        let heard = commands.clone();
        config.inbox.listen(Arc::new(move |message| heard.hear(&message)));
        let link = Arc::new(Self { core, commands });
        if config.role == Role::Active {
            // A moment more, so that the thread's word is heard.
            let left = until.saturating_duration_since(Instant::now()) + Duration::from_secs(1);
            is_ready.recv_timeout(left).unwrap_or_else(|_| {
                let message = "the communicator was not made in time";
                Err(Error::new(ErrorKind::TimedOut, "link over HCCL", message))
            })?;
        }
        Ok(link)
    }
}

impl Core {
    fn run(&self, commands: &Told, role: Role, until: Instant, ready: &Sender<Result<()>>) {
        let device = &self.shared.device;
        let (on, hand) = match device.enter().and_then(|on| Ok((on, Hand::start(device)?))) {
            Ok(both) => both,
            Err(error) => return self.never(error, ready),
        };
        let mut set_up = SetUp {
            shared: &self.shared,
            ends: &self.ends,
            sink: &*self.sink,
            commands,
            hand: &hand,
            until,
            later: Vec::new(),
        };
        let made = set_up.run();
        let later = set_up.later;
        let comm = match made {
            Ok(comm) => comm,
            Err(NoLink { error, withheld }) => {
                self.never(error, ready);
                if let Some(memory) = withheld {
                    // What the network's hardware has may still arrive.
                    std::thread::sleep(self.shared.hold);
                    drop(memory);
                }
                return;
            }
        };
        tracing::info!(
            peer = self.ends.peer.physical,
            node = self.ends.peer.node,
            "a communicator of two ranks"
        );
        match role {
            Role::Active if ready.send(Ok(())).is_err() => {}
            Role::Active => {}
            Role::Passive => self.sink.attached(),
        }
        let (shared, open) = (&self.shared, &self.open);
        let native = Native { comm: &comm, hand: &hand, on: &on };
        let worker = Worker::new(shared, &self.ends, &*self.sink, &self.pins, open, native);
        let ended = worker.run(commands, later);
        self.over.store(true, Ordering::SeqCst);
        self.refuse_late(commands);
        self.end(ended, &comm, &hand);
        self.refuse_late(commands);
    }

    /// The link never came to be.
    fn never(&self, error: Error, ready: &Sender<Result<()>>) {
        self.over.store(true, Ordering::SeqCst);
        let _ = self.sink.say(Message::Refused(error.message().to_owned()).encode());
        tracing::info!(%error, "no link by HCCL");
        let _ = ready.send(Err(error));
        self.sink.closed(false);
    }

    fn end(&self, ended: Ended, comm: &Arc<Communicator>, hand: &Hand) {
        let Ended { why, in_doubt, aborted, held } = ended;
        match why {
            End::Closed => {
                let _ = self.sink.say(Message::Closing.encode());
            }
            End::PeerClosed => {
                self.sink.lost(Error::new(ErrorKind::LinkLost, "link over HCCL", "the peer closed the link"));
            }
            End::Broken(error) => {
                match in_doubt {
                    true => {
                        tracing::error!(%error, "fatal: a communicator of HCCL broke with copies under way")
                    }
                    false => tracing::warn!(%error, "a link over HCCL broke with nothing under way"),
                }
                self.sink.lost(error);
            }
        }
        if in_doubt && !(aborted && self.is_quiet(comm, hand)) {
            // Nothing ends what the device still does: its memory is withheld until the process ends.
            tracing::error!("fatal: a stream of HCCL hangs and cannot be aborted; restart the process");
            std::mem::forget((held, Arc::clone(comm)));
            return;
        }
        if !destroy(hand, comm, &self.shared) && in_doubt {
            // The copies are stopped on our side; what the library does about the other's is not known.
            std::mem::forget(held);
            return;
        }
        if in_doubt {
            // What the network's hardware has may still arrive.
            std::thread::sleep(self.shared.hold);
        }
        if let Some((served, ticket)) = held {
            drop(served);
            let over = self.pins.leave(ticket);
            over.fenced.into_iter().for_each(|grant| self.sink.fenced(grant));
            over.withdrawn.into_iter().for_each(|region| self.sink.withdrawn(region));
        }
        self.sink.closed(false);
    }

    /// Whether the device is done with the copies after the stream's abort.
    fn is_quiet(&self, comm: &Arc<Communicator>, hand: &Hand) -> bool {
        let (called, patience) = (Arc::clone(comm), self.shared.hold);
        let until = Instant::now() + patience.max(ABORT) + ABORT;
        let quiet = move |on: &Bound<'_>| called.is_quiet(on, patience);
        hand.call("a wait for a stream", until, quiet, |_, _| ()).unwrap_or(false)
    }

    /// Batches that were handed over while the link ended.
    fn refuse_late(&self, commands: &Told) {
        while let Ok(command) = commands.try_recv() {
            if let Command::Start(ours) = command {
                self.open.fetch_sub(1, Ordering::AcqRel);
                // SAFETY: it was never started.
                unsafe { ours.done.finish(Status::quiet(ropeway_core::StatusKind::Closed)) };
            }
        }
    }
}

impl Link for HcclLink {
    fn kind(&self) -> TransportKind {
        TransportKind::Hccl
    }

    /// Nothing to map: the peer checks each request. Any length; bounds are known from the directory.
    fn import(&self, _: RegionId, _: Instant) -> Result<u64> {
        if self.core.over.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::LinkLost, "import", "the link by HCCL is down; connect anew"));
        }
        Ok(u64::MAX)
    }

    fn adopt(&self, _: RegionId, memory: &Arc<Memory>, _: Instant) -> Result<()> {
        let refused = |text: String| Err(Error::new(ErrorKind::Unsupported, "route", text));
        match HbmMemory::of(memory) {
            Some(hbm) if hbm.npu().user_id() == self.core.shared.device.user_id() => Ok(()),
            Some(hbm) => {
                refused(format!("the memory is on NPU {}, the communicator on another", hbm.npu().user_id()))
            }
            None => refused("HCCL moves memory of NPUs only; take another transport for host memory".into()),
        }
    }

    fn post(&self, batch: Batch) -> Result<(), Rejected> {
        let reject = |batch, why| Err(Rejected { batch: Box::new(batch), why });
        if self.core.over.load(Ordering::SeqCst) {
            return reject(batch, Refusal::Closed);
        }
        let mut plan = BytesMut::new();
        batch.runs.encode(&mut plan);
        if plan.len() > PLAN_BYTES_MAX {
            return reject(batch, Refusal::Full { limit: "control_frame_bytes" });
        }
        if self.core.open.fetch_add(1, Ordering::AcqRel) >= self.core.shared.transfers_max {
            self.core.open.fetch_sub(1, Ordering::AcqRel);
            return reject(batch, Refusal::Full { limit: "transfers_per_peer" });
        }
        let empty = batch.runs.total_bytes() == 0;
        let Batch { id, op, grant, runs, local, abandon_at, done, .. } = batch;
        if empty {
            self.core.open.fetch_sub(1, Ordering::AcqRel);
            // SAFETY: nothing was started.
            unsafe { done.finish(Status::COMPLETED) };
            return Ok(());
        }
        let plan = plan.freeze();
        let ours = Ours { id, op, grant, runs, local, abandon_at, done, plan, cancelled: false };
        if let Err(Command::Start(ours)) = self.commands.tell(Command::Start(Box::new(ours))) {
            self.core.open.fetch_sub(1, Ordering::AcqRel);
            // SAFETY: it was never started.
            unsafe { ours.done.finish(Status::quiet(ropeway_core::StatusKind::Closed)) };
        }
        Ok(())
    }

    fn cancel(&self, id: TransferId) {
        let _ = self.commands.tell(Command::Cancel(id));
    }

    /// The link's own thread does everything.
    fn drive(&self, state: &State, until: Option<Instant>) {
        state.park(until);
    }

    fn fence(&self, grant: GrantId) -> Fenced {
        self.core.pins.fence(grant)
    }

    fn withdraw(&self, region: RegionId) -> Fenced {
        self.core.pins.withdraw(region)
    }

    fn close(&self) {
        let _ = self.commands.tell(Command::Close);
    }
}

impl Drop for HcclLink {
    fn drop(&mut self) {
        if self.core.shared.device.origin().is_foreign() {
            // The thread and its link are the parent's. Another thread may have been in the channel at the fork, so it is
            // left alone, and is not to be dropped as the last of its kind.
            std::mem::forget(self.commands.clone());
            return;
        }
        self.close();
    }
}
