//! One request some of whose local ends are staged: which of its bytes are where.

use std::sync::Arc;
use std::time::Duration;

use ropeway_core::{Error, Op, Result};
use ropeway_transport::Memory;

use super::hosts::Hosts;
use super::places::{PLACE, Place, Room, Stages};
use crate::device::Bound;
use crate::link::{Desc, Failure, Mover, Polled, PostError, Request};
use crate::slots::{Slot, Slots};
use crate::staging::move_bytes;
use crate::stream::{Way, has_passed};

/// How long the wait may take that follows an event which was the last on its stream.
const AFTER_EVENT: Duration = Duration::from_millis(100);

/// See the module.
pub(super) struct Flow {
    op: Op,
    descs: Vec<Desc>,
    /// The next descriptor, and how much of it went before.
    next: usize,
    done: u64,
    lines: Vec<Line>,
    /// Some of it failed, and is over: no more is begun.
    failed: Option<i32>,
    /// Something of it was submitted at some time.
    begun: bool,
}

/// What goes through one place, again and again.
struct Line {
    place: Place,
    step: Step,
    /// The native request.
    list: Vec<Desc>,
    /// What is in the place, and which bytes of the host.
    pieces: Vec<Piece>,
    fill: u64,
}

/// How far it is. A READ is native first, a WRITE copied first.
enum Step {
    Idle,
    /// To be copied between the place's two memories.
    ToCopy,
    Copying(Slot),
    /// To be posted natively.
    ToPost,
    Native(Request),
    /// A post failed, and part of it may be under way.
    Untold,
}

struct Piece {
    memory: Arc<Memory>,
    host: u64,
    at: u64,
    len: u64,
}

/// What a flow works with.
pub(super) struct Tools<'a, M: Mover> {
    pub(super) on: &'a Bound<'a>,
    pub(super) inner: &'a mut M,
    pub(super) hosts: &'a Hosts,
    pub(super) room: &'a Room,
    pub(super) stages: &'a Stages,
    /// Descriptors of one native request, at most.
    pub(super) descs_max: usize,
}

/// What became of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Turn {
    Waiting,
    /// Nothing of it touches memory any more. The number of what failed.
    Over(Option<i32>),
}

/// After this nothing is known of what is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Broken {
    pub(super) code: i32,
    /// The library refused a post as a whole: of that one nothing was started.
    pub(super) cut: bool,
}

/// A step could not be made.
enum Stop {
    /// Nothing of this line is under way.
    Failed(i32),
    Broken(Broken),
    /// There is no room now.
    Later,
}

impl Stop {
    fn failed(error: &Error) -> Self {
        Self::Failed(error.native().unwrap_or(0))
    }

    fn broken(error: &Error) -> Self {
        Self::Broken(Broken { code: error.native().unwrap_or(0), cut: false })
    }
}

/// What is left of a line at its link's end.
#[derive(Debug)]
pub(super) enum Remains {
    Nothing,
    /// The library may still touch the place.
    Native,
    /// A copy may be under way that did not end.
    Copy,
}

impl Flow {
    pub(super) fn new(op: Op, descs: &[Desc], places: impl IntoIterator<Item = Place>) -> Self {
        let line = |place| Line { place, step: Step::Idle, list: Vec::new(), pieces: Vec::new(), fill: 0 };
        let lines = places.into_iter().map(line).collect();
        Self { op, descs: descs.to_vec(), next: 0, done: 0, lines, failed: None, begun: false }
    }

    /// Does what can be done now, without waiting; the host's part of a line at most once.
    ///
    /// # Errors
    /// Nothing is known any more of what is under way.
    pub(super) fn advance<M: Mover>(&mut self, tools: &mut Tools<'_, M>) -> Result<Turn, Broken> {
        for at in 0..self.lines.len() {
            let mut carried = false;
            loop {
                match self.step(at, &mut carried, tools) {
                    Ok(true) => {}
                    Ok(false) | Err(Stop::Later) => break,
                    Err(Stop::Failed(code)) => {
                        self.failed.get_or_insert(code);
                        self.lines[at].clear();
                    }
                    Err(Stop::Broken(broken)) => return Err(broken),
                }
            }
        }
        let idle = self.lines.iter().all(|line| matches!(line.step, Step::Idle));
        Ok(if idle && self.is_fed() { Turn::Over(self.failed) } else { Turn::Waiting })
    }

    /// Nothing more of it is to be begun.
    fn is_fed(&self) -> bool {
        self.failed.is_some() || self.next == self.descs.len()
    }

    /// Whether anything of it was submitted.
    pub(super) fn is_begun(&self) -> bool {
        self.begun
    }

    pub(super) fn places(&self) -> impl Iterator<Item = Place> {
        self.lines.iter().map(|line| line.place)
    }

    /// One step of one line. False: it has to wait.
    fn step<M: Mover>(
        &mut self,
        at: usize,
        carried: &mut bool,
        tools: &mut Tools<'_, M>,
    ) -> Result<bool, Stop> {
        let (op, fed, failed) = (self.op, self.is_fed(), self.failed.is_some());
        let line = &mut self.lines[at];
        match &line.step {
            Step::Idle if fed => return Ok(false),
            Step::Untold => return Ok(false),
            Step::ToCopy | Step::ToPost if failed => line.clear(),
            Step::Idle if op == Op::Write && std::mem::replace(carried, true) => return Ok(false),
            Step::Idle => {
                self.fill(at, tools);
                self.lines[at].begin(op, tools.room)?;
            }
            Step::ToCopy => {
                line.copy(op, tools)?;
                self.begun = true;
            }
            Step::Copying(slot) => {
                if !slot.event.has_fired(tools.on).map_err(|error| Stop::broken(&error))? {
                    return Ok(false);
                }
                if op == Op::Read && std::mem::replace(carried, true) {
                    return Ok(false);
                }
                line.copied(op, tools)?;
            }
            Step::ToPost => {
                line.post(op, tools.inner)?;
                self.begun = true;
            }
            Step::Native(request) => match tools.inner.poll(*request) {
                Polled::Waiting => return Ok(false),
                Polled::Done if op == Op::Read && line.fill > 0 => line.step = Step::ToCopy,
                Polled::Done => line.clear(),
                Polled::Failed(Failure::Over { code }) => return Err(Stop::Failed(code)),
                Polled::Failed(Failure::Latched { code }) => {
                    return Err(Stop::Broken(Broken { code, cut: false }));
                }
            },
        }
        Ok(true)
    }

    /// Says what goes through a line's place next: what fits into it, and what lies between and needs no stage.
    fn fill<M: Mover>(&mut self, at: usize, tools: &Tools<'_, M>) {
        let base = tools.room.device_at(0);
        let line = &mut self.lines[at];
        line.clear();
        while line.fill < PLACE
            && line.list.len() < tools.descs_max
            && let Some(desc) = self.descs.get(self.next)
        {
            let Some((memory, host)) = tools.hosts.find(desc.local) else {
                line.list.push(*desc);
                self.next += 1;
                continue;
            };
            let len = (desc.len - self.done).min(PLACE - line.fill);
            let at = line.place.0 + line.fill;
            line.list.push(Desc { local: base + at, remote: desc.remote.wrapping_add(self.done), len });
            line.pieces.push(Piece { memory: Arc::clone(memory), host: host + self.done, at, len });
            line.fill += len;
            self.done += len;
            if self.done == desc.len {
                (self.next, self.done) = (self.next + 1, 0);
            }
        }
    }

    /// The link is down: ends the copies, by force where they do not end. Gives what may still touch each place.
    pub(super) fn end(
        self,
        on: Option<&Bound<'_>>,
        slots: &Slots,
        timeout: Duration,
    ) -> impl Iterator<Item = (Place, Remains)> {
        self.lines.into_iter().map(move |line| {
            let remains = match line.step {
                Step::Idle | Step::ToCopy | Step::ToPost => Remains::Nothing,
                Step::Native(_) | Step::Untold => Remains::Native,
                Step::Copying(slot) if on.is_some_and(|on| slot.drain(on, timeout)) => {
                    slots.retire(slot);
                    Remains::Nothing
                }
                Step::Copying(slot) => {
                    slots.lose(slot);
                    Remains::Copy
                }
            };
            (line.place, remains)
        })
    }
}

impl Line {
    /// Nothing is in it any more.
    fn clear(&mut self) {
        self.step = Step::Idle;
        self.list.clear();
        self.pieces.clear();
        self.fill = 0;
    }

    /// It was filled.
    fn begin(&mut self, op: Op, room: &Room) -> Result<(), Stop> {
        if op == Op::Write && self.fill > 0 {
            self.carry(room, false)?;
            self.step = Step::ToCopy;
        } else {
            self.step = Step::ToPost;
        }
        Ok(())
    }

    /// Puts the copy between the place's two memories on a stream.
    fn copy<M: Mover>(&mut self, op: Op, tools: &Tools<'_, M>) -> Result<(), Stop> {
        let Some(slot) = tools.stages.slots().take() else { return Err(Stop::Later) };
        let (device, pinned) = (tools.room.device_at(self.place.0), tools.room.pinned_at(self.place.0));
        let (to, from, way) = match op {
            Op::Read => (pinned, device, Way::ToHost),
            Op::Write => (device, pinned, Way::ToDevice),
        };
        // SAFETY: `fill` bytes of this line's own place, in memory that the room keeps; the place goes to nobody else before the
        // stream has passed.
        if let Err(error) = unsafe { slot.stream.copy(tools.on, to, from, self.fill, way) } {
            tools.stages.slots().give(slot);
            return Err(Stop::failed(&error));
        }
        let recorded = slot.stream.record(tools.on, &slot.event);
        self.step = Step::Copying(slot);
        recorded.map_err(|error| Stop::broken(&error))
    }

    /// The event behind the copy has fired.
    fn copied<M: Mover>(&mut self, op: Op, tools: &Tools<'_, M>) -> Result<(), Stop> {
        let Step::Copying(slot) = std::mem::replace(&mut self.step, Step::Idle) else { return Ok(()) };
        // The event was the last on the stream, so this returns at once; it is what tells whether the copy failed.
        let waited = slot.stream.wait(tools.on, AFTER_EVENT);
        let passed = has_passed(&waited);
        match waited {
            Ok(()) => tools.stages.slots().give(slot),
            Err(error) if passed => {
                tools.stages.slots().retire(slot);
                return Err(Stop::failed(&error));
            }
            Err(error) => {
                self.step = Step::Copying(slot);
                return Err(Stop::broken(&error));
            }
        }
        if op == Op::Read {
            self.carry(tools.room, true)?;
            self.clear();
        } else {
            self.step = Step::ToPost;
        }
        Ok(())
    }

    fn post<M: Mover>(&mut self, op: Op, inner: &mut M) -> Result<(), Stop> {
        self.step = match inner.post(op, &self.list) {
            Ok(request) => Step::Native(request),
            Err(PostError::Busy(_)) => return Err(Stop::Later),
            Err(PostError::Failed(Failure::Over { code })) => return Err(Stop::Failed(code)),
            Err(PostError::Cut { code }) => return Err(Stop::Broken(Broken { code, cut: true })),
            Err(PostError::Failed(Failure::Latched { code })) => {
                // It may have been started in part, and has no number.
                self.step = Step::Untold;
                return Err(Stop::Broken(Broken { code, cut: false }));
            }
        };
        Ok(())
    }

    /// Copies between the hosts' memory and the pinned place.
    fn carry(&self, room: &Room, to_host: bool) -> Result<(), Stop> {
        let carry = |piece: &Piece| match to_host {
            true => move_bytes(&piece.memory, piece.host, &room.pinned, piece.at, piece.len),
            false => move_bytes(&room.pinned, piece.at, &piece.memory, piece.host, piece.len),
        };
        self.pieces.iter().try_for_each(carry).map_err(|error| Stop::failed(&error))
    }
}
