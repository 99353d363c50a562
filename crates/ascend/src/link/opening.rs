//! How a link comes to be: both sides connect in their direction and prove the way with a probe transfer.
//!
//! Active says `Open` with its probe region; the passive side imports it, connects and reads it, then answers `Opened`
//! with its own; the active side does the same and says `Ready`. A way that moves no bytes, or wrong ones, is no link.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use ropeway_core::{Cursor, Error, ErrorKind, GrantId, Op, RegionId, Result, Run, Runs, Status, TransferId};
use ropeway_transport::{Batch, Memory, Role, State, Watcher};

use super::core::{LinkCore, Stage, left};
use super::flight::Remote;
use super::lane::Event;
use super::regions::closed;
use super::wire::{Malformed, Message, NONCE_BYTES, Offered};

/// How a mover names the probe memory of either side: no engine hands this id out.
pub(super) const PROBE: RegionId = RegionId { slot: u32::MAX, generation: u32::MAX };

/// What has been heard of the other side.
#[derive(Default)]
pub(super) enum Opening {
    #[default]
    Silent,
    /// The passive side's probe region.
    Answered(Offered, [u8; NONCE_BYTES]),
    /// The active side came, and this side is at it.
    Joining,
    /// This side has said that it is there.
    Joined,
    Refused(String),
}

impl LinkCore {
    /// The active side's part, up to a link that can be used. Blocks until the deadline.
    pub(super) fn open_actively(&self) -> Result<()> {
        let probe = self.in_time("opening the way", LinkCore::prepare)?;
        self.say(&Message::Open { probe, nonce: self.shared.probe()?.nonce });
        let (theirs, nonce) = self.await_answer()?;
        self.in_time("connecting", move |me| me.reach(&theirs, &nonce))?;
        if !self.step(Stage::Waiting, Stage::Open) {
            return Err(closed("link"));
        }
        self.say(&Message::Ready);
        Ok(())
    }

    /// There will be no link: the peer is told, and what was begun is undone in the background.
    pub(super) fn refuse(&self, error: &Error) {
        self.say(&Message::Refused { text: error.message().to_owned() });
        self.discard();
    }

    fn await_answer(&self) -> Result<(Offered, [u8; NONCE_BYTES])> {
        let mut tables = self.tables();
        loop {
            match std::mem::take(&mut tables.opening) {
                Opening::Answered(probe, nonce) => return Ok((probe, nonce)),
                Opening::Refused(text) => return Err(Error::new(ErrorKind::Unsupported, "link", text)),
                other => tables.opening = other,
            }
            if self.stage() != Stage::Waiting {
                return Err(closed("link"));
            }
            if Instant::now() >= self.deadline {
                let text = format!("the peer's {} did not answer in time", self.kind());
                return Err(Error::new(ErrorKind::TimedOut, "link", text));
            }
            let wait = self.changed.wait_timeout(tables, left(self.deadline));
            tables = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Runs a step on the slow thread and waits for it until the deadline.
    fn in_time<T: Send + 'static>(
        &self,
        what: &'static str,
        step: impl FnOnce(&LinkCore) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (done, answer) = crossbeam_channel::bounded(1);
        self.slowly(move |me| {
            let _ = done.send(step(me));
        });
        answer.recv_deadline(self.deadline).unwrap_or_else(|_| {
            let text = format!("{what} by {} took too long", self.kind());
            Err(Error::new(ErrorKind::TimedOut, "link", text))
        })
    }

    /// Opens the mover and registers the probe memory. On a slow thread.
    fn prepare(&self) -> Result<Offered> {
        if self.stage() != Stage::Waiting {
            return Err(closed("link"));
        }
        let probe = self.shared.probe()?;
        let mut mover = self.shared.native.open(&self.offer, self.role)?;
        let description = mover.register(PROBE, &probe.memory).and_then(Self::checked);
        *self.mover() = Some(mover);
        Ok(Offered { region: PROBE, len: probe.memory.len(), description: description? })
    }

    /// Connects in our direction and reads the peer's probe bytes. On a slow thread.
    fn reach(&self, theirs: &Offered, nonce: &[u8; NONCE_BYTES]) -> Result<()> {
        if theirs.region != PROBE || theirs.len < NONCE_BYTES as u64 {
            return Err(Error::new(ErrorKind::Protocol, "link", "the peer offered no probe region"));
        }
        let epoch = self.epoch();
        let (base, cuts) = {
            let mut mover = self.mover();
            let mover = mover.as_mut().ok_or_else(|| closed("link"))?;
            let imported = mover.import(PROBE, theirs.len, &theirs.description)?;
            mover.connect(left(self.deadline))?;
            (imported.base, Box::new(mover.cuts()))
        };
        self.tell_lane(Event::Connected { epoch, cuts });
        self.read_probe(Remote { region: PROBE, base, len: theirs.len }, nonce)
    }

    fn read_probe(&self, remote: Remote, nonce: &[u8; NONCE_BYTES]) -> Result<()> {
        let probe = self.shared.probe()?;
        let slot = probe.take_slot()?;
        self.tables().probe_slot = Some(slot);
        probe.memory.fill(slot, NONCE_BYTES as u64, 0)?;
        let local: Arc<[Arc<Memory>]> = Arc::new([Arc::clone(&probe.memory)]);
        let (state, done) = State::new(TransferId(u64::MAX), 0, Arc::clone(&local), Arc::new(Nobody));
        let batch = Batch {
            id: TransferId(u64::MAX),
            op: Op::Read,
            grant: GrantId::from_bits(0),
            runs: Arc::new(OneRun(Run {
                local: slot,
                remote: 0,
                len: NONCE_BYTES as u32,
                local_region: 0,
                remote_region: 0,
            })),
            local,
            remote: Arc::new([PROBE]),
            abandon_at: self.deadline,
            done,
        };
        self.post_probe(batch, remote);
        // The lane gives it up at the deadline; a moment more, so that its word is heard.
        let status = state.park(Some(self.deadline + Duration::from_secs(1)));
        let mut came = [0; NONCE_BYTES];
        match status {
            Some(status) if status.is_completed() => probe.memory.read(slot, &mut came)?,
            Some(status) => {
                let text = format!("the probe transfer by {} ended as {:?}", self.kind(), status.kind);
                return Err(Error::new(ErrorKind::Unsupported, "link", text).with_native(status.native));
            }
            None => return Err(Error::new(ErrorKind::TimedOut, "link", "the probe transfer did not end")),
        }
        if came != *nonce {
            let text = format!("a probe transfer by {} brought other bytes than the peer's", self.kind());
            return Err(Error::new(ErrorKind::Unsupported, "link", text));
        }
        Ok(())
    }

    /// The active side came.
    pub(super) fn opened_by_peer(&self, probe: Offered, nonce: [u8; NONCE_BYTES]) {
        {
            let mut tables = self.tables();
            if self.role != Role::Passive || !matches!(tables.opening, Opening::Silent) {
                drop(tables);
                return self.broke_protocol(Malformed("an opening that was not expected"));
            }
            tables.opening = Opening::Joining;
        }
        self.slowly(move |me| me.join(&probe, &nonce));
    }

    fn join(&self, theirs: &Offered, nonce: &[u8; NONCE_BYTES]) {
        let joined = self.prepare().and_then(|ours| {
            self.reach(theirs, nonce)?;
            Ok(Message::Opened { probe: ours, nonce: self.shared.probe()?.nonce })
        });
        match joined {
            Ok(opened) => {
                self.tables().opening = Opening::Joined;
                self.say(&opened);
            }
            Err(error) => {
                self.say(&Message::Refused { text: error.message().to_owned() });
                self.lose(error);
            }
        }
    }

    pub(super) fn answered_by_peer(&self, probe: Offered, nonce: [u8; NONCE_BYTES]) {
        {
            let mut tables = self.tables();
            if self.role != Role::Active || !matches!(tables.opening, Opening::Silent) {
                drop(tables);
                return self.broke_protocol(Malformed("an answer to an opening that was not said"));
            }
            tables.opening = Opening::Answered(probe, nonce);
        }
        self.changed.notify_all();
    }

    pub(super) fn refused_by_peer(&self, text: String) {
        self.tables().opening = Opening::Refused(text.clone());
        self.changed.notify_all();
        if self.role == Role::Passive {
            self.lose(Error::new(ErrorKind::LinkLost, "link", text));
        }
    }

    pub(super) fn peer_is_ready(&self) {
        let joined = self.role == Role::Passive && matches!(self.tables().opening, Opening::Joined);
        if !joined {
            return self.broke_protocol(Malformed("readiness that was not expected"));
        }
        if self.step(Stage::Waiting, Stage::Open) {
            self.sink.attached();
        }
    }

    /// A passive side waits until the deadline.
    pub(super) fn watch_opening(&self, now: Instant) -> Option<Instant> {
        if self.role == Role::Active || self.stage() != Stage::Waiting {
            return None;
        }
        if now < self.deadline {
            return Some(self.deadline);
        }
        self.lose(Error::new(ErrorKind::TimedOut, "link", "the peer did not come before the deadline"));
        None
    }

    /// Makes the connection, or makes it anew so that it knows the newest regions. Nothing is in flight. On a slow thread.
    pub(super) fn connect(&self) {
        let epoch = self.epoch();
        let connected = match self.mover().as_mut() {
            Some(mover) => {
                // Nothing is in flight: what it proves does not matter.
                mover.disconnect(self.shared.timing.disconnect);
                mover.connect(self.shared.timing.connect).map(|_| Box::new(mover.cuts()))
            }
            None => Err(closed("link")),
        };
        match connected {
            Ok(cuts) => self.tell_lane(Event::Connected { epoch, cuts }),
            Err(error) => {
                let text = format!("connecting anew for new regions failed: {}", error.message());
                let lost = Error::new(ErrorKind::LinkLost, "link", text);
                self.lose(error.native().map_or(lost.clone(), |code| lost.with_native(code)));
            }
        }
    }
}

/// A plan of one run.
struct OneRun(Run);

impl Runs for OneRun {
    fn total_bytes(&self) -> u64 {
        self.0.len.into()
    }

    fn total_runs(&self) -> u64 {
        1
    }

    fn fill(&self, at: &mut Cursor, out: &mut [Run], bytes: u64) -> usize {
        if at.part > 0 || out.is_empty() || bytes < self.total_bytes() {
            return 0;
        }
        at.part = 1;
        out[0] = self.0;
        1
    }

    fn seek(&self, byte: u64) -> Cursor {
        Cursor { part: u32::from(byte > 0), ..Cursor::default() }
    }

    fn encode(&self, _: &mut bytes::BytesMut) {}
}

/// The probe's end is only waited for.
struct Nobody;

impl Watcher for Nobody {
    fn finished(&self, _: &State, _: Status, _: Option<Arc<[Arc<Memory>]>>) {}
}
