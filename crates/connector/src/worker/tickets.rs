//! What a worker owes to whom: decided without I/O, so that every order of events can be tried.
//!
//! Messages of the scheduler half and ends of the worker's own work come in; what to do comes out, and reports for vLLM.
//! Two things of a passage go their own ways: what the producer gives us (claiming, held, failed) and what vLLM wants
//! (nothing yet, the bytes, no more). They meet in one of three ends: the bytes were read, the claim failed, or the
//! grants are let go.

use std::collections::HashMap;
use std::ops::Range;

use ropeway::{ErrorKind, LeaseName};

use crate::meta::{Message, Ticket};
use crate::params::Owner;

/// Something for the worker to do. Each `Claim` is answered by [`Tickets::claimed`], each `Read` by [`Tickets::read`],
/// each `Lend` by [`Tickets::lent_ended`], once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Grant a lease.
    Lend {
        /// The passage.
        ticket: Ticket,
        /// Its name.
        lease: LeaseName,
        /// The manager's block ids per group.
        blocks: Vec<Vec<u32>>,
    },
    /// Claim a lease of each rank that matters.
    Claim {
        /// The passage.
        ticket: Ticket,
        /// Who lent the blocks.
        owner: Owner,
        /// Under which name.
        lease: LeaseName,
    },
    /// Read under the grants.
    Read {
        /// The passage.
        ticket: Ticket,
        /// What.
        ask: Ask,
    },
    /// Nobody wants what is being read: stop, and answer as soon as nothing can land any more.
    Cancel {
        /// The passage.
        ticket: Ticket,
    },
    /// Let a producer write under a lease of that name; answered as a `Read` is.
    Expect {
        /// The passage.
        ticket: Ticket,
        /// Its name.
        lease: LeaseName,
        /// What is to be written.
        ask: Ask,
    },
    /// Claim the blocks that a prompt is to be written to. Nothing is answered before an `End`.
    Aim {
        /// The passage.
        ticket: Ticket,
        /// Whose they are.
        owner: Owner,
        /// Under which name they can be had.
        lease: LeaseName,
        /// Their ids per group, as their manager names them.
        remote: Vec<Vec<u32>>,
        /// The first token that is lacking there.
        from: u64,
    },
    /// A step computes a part of it.
    Step {
        /// The passage.
        ticket: Ticket,
        /// Further block ids per group.
        more: Vec<Vec<u32>>,
        /// How many tokens are computed when it is done.
        end: u64,
    },
    /// Send the rest, or stop. Answered by [`Tickets::lent_ended`] once nothing is read any more, at once where there is no
    /// such passage.
    End {
        /// The passage.
        ticket: Ticket,
        /// Send the rest.
        complete: bool,
        /// vLLM waits for the report; otherwise it does not wait at all.
        keeps: bool,
    },
    /// Let the grants go.
    Release {
        /// The passage.
        ticket: Ticket,
    },
}

/// What to read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ask {
    /// Our manager's block ids per group, null ids kept.
    pub local: Vec<Vec<u32>>,
    /// The producer's.
    pub remote: Vec<Vec<u32>>,
    /// Which tokens.
    pub tokens: Range<u64>,
}

/// Why a load failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// The engine's kind.
    pub kind: ErrorKind,
    /// In words.
    pub text: String,
}

impl From<ropeway::Error> for Failure {
    fn from(error: ropeway::Error) -> Self {
        Self { kind: error.kind(), text: error.to_string() }
    }
}

/// A request whose KV did not come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FailedLoad {
    /// The request.
    pub request: String,
    /// Why.
    pub failure: Failure,
    /// What was to be read: of our blocks, those of its tokens hold nothing valid.
    pub ask: Ask,
}

/// What vLLM is to be told, each request once.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reports {
    /// Requests whose lent blocks may be reused.
    pub sent: Vec<String>,
    /// Requests whose loads are over, failed ones among them: nothing lands in their blocks any more.
    pub received: Vec<String>,
    /// Those that failed.
    pub failed: Vec<FailedLoad>,
}

impl Reports {
    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.sent.is_empty() && self.received.is_empty()
    }
}

/// The passages of one worker.
#[derive(Debug, Default)]
pub struct Tickets {
    lent: HashMap<Ticket, String>,
    loads: HashMap<Ticket, Load>,
    reports: Reports,
}

#[derive(Debug)]
struct Load {
    request: String,
    have: Have,
    want: Want,
}

#[derive(Debug)]
enum Have {
    Claiming,
    Held,
    Reading,
    Failed(Failure),
}

#[derive(Debug)]
enum Want {
    /// vLLM has no blocks for it yet.
    Undecided,
    /// vLLM waits.
    Bytes(Ask),
    /// vLLM waits only for the word that nothing lands any more.
    Quiet,
    /// vLLM waits for nothing.
    Nothing,
}

impl Tickets {
    /// The scheduler half says something.
    pub fn told(&mut self, message: Message) -> Option<Action> {
        match message {
            Message::Lend { ticket, request, lease, blocks } => {
                self.lent.insert(ticket, request).is_none().then_some(Action::Lend { ticket, lease, blocks })
            }
            Message::Track { ticket, request, owner, lease } => {
                if self.loads.contains_key(&ticket) {
                    return None;
                }
                self.loads.insert(ticket, Load { request, have: Have::Claiming, want: Want::Undecided });
                Some(Action::Claim { ticket, owner, lease })
            }
            Message::Pull { ticket, request, local, remote, tokens } => {
                self.pull(ticket, request, Ask { local, remote, tokens })
            }
            Message::Drop { ticket } => self.drop(ticket),
            Message::Expect { ticket, request, lease, local, tokens } => {
                if self.loads.contains_key(&ticket) {
                    return None;
                }
                let ask = Ask { local, remote: Vec::new(), tokens };
                let want = Want::Bytes(ask.clone());
                self.loads.insert(ticket, Load { request, have: Have::Reading, want });
                Some(Action::Expect { ticket, lease, ask })
            }
            // It fails as a read does that is stopped, but vLLM hears of it.
            Message::Refuse { ticket } => {
                self.loads.contains_key(&ticket).then_some(Action::Cancel { ticket })
            }
            Message::Aim { ticket, owner, lease, remote, from } => {
                Some(Action::Aim { ticket, owner, lease, remote, from })
            }
            Message::Step { ticket, more, end } => Some(Action::Step { ticket, more, end }),
            Message::End { ticket, request, complete, keeps } => {
                if keeps {
                    self.lent.insert(ticket, request);
                }
                Some(Action::End { ticket, complete, keeps })
            }
        }
    }

    fn pull(&mut self, ticket: Ticket, request: String, ask: Ask) -> Option<Action> {
        let Some(load) = self.loads.get_mut(&ticket) else {
            // vLLM waits all the same.
            let text = "this worker was not told of the request before".to_owned();
            self.failed(request, Failure { kind: ErrorKind::ApiMisuse, text }, ask);
            return None;
        };
        if !matches!(load.want, Want::Undecided) {
            return None;
        }
        match &load.have {
            Have::Claiming => {
                load.want = Want::Bytes(ask);
                None
            }
            Have::Held => {
                load.have = Have::Reading;
                load.want = Want::Bytes(ask.clone());
                Some(Action::Read { ticket, ask })
            }
            Have::Failed(failure) => {
                let failure = failure.clone();
                self.loads.remove(&ticket);
                self.failed(request, failure, ask);
                None
            }
            Have::Reading => None,
        }
    }

    fn drop(&mut self, ticket: Ticket) -> Option<Action> {
        let load = self.loads.get_mut(&ticket)?;
        match (&load.have, &load.want) {
            // The claim goes on: its grants are let go as soon as they come, so that the producer hears a word.
            (Have::Claiming, Want::Bytes(_)) => {
                load.want = Want::Nothing;
                self.reports.received.push(load.request.clone());
                None
            }
            (Have::Claiming, _) => {
                load.want = Want::Nothing;
                None
            }
            (Have::Reading, Want::Bytes(_)) => {
                load.want = Want::Quiet;
                Some(Action::Cancel { ticket })
            }
            (Have::Reading, _) => None,
            (Have::Held, _) => {
                self.loads.remove(&ticket);
                Some(Action::Release { ticket })
            }
            (Have::Failed(_), _) => {
                self.loads.remove(&ticket);
                None
            }
        }
    }

    /// A claim is over: every grant is held, or none is.
    pub fn claimed(&mut self, ticket: Ticket, result: Result<(), Failure>) -> Option<Action> {
        let load = self.loads.get_mut(&ticket).filter(|load| matches!(load.have, Have::Claiming))?;
        match (result, &load.want) {
            (Ok(()), Want::Bytes(ask)) => {
                let ask = ask.clone();
                load.have = Have::Reading;
                Some(Action::Read { ticket, ask })
            }
            (Ok(()), Want::Undecided) => {
                load.have = Have::Held;
                None
            }
            (Err(failure), Want::Undecided) => {
                load.have = Have::Failed(failure);
                None
            }
            (Ok(()), _) => {
                self.loads.remove(&ticket);
                Some(Action::Release { ticket })
            }
            (Err(failure), _) => {
                let load = self.loads.remove(&ticket)?;
                if let Want::Bytes(ask) = load.want {
                    self.failed(load.request, failure, ask);
                }
                None
            }
        }
    }

    /// A read is over: the grants were let go, and nothing lands any more.
    pub fn read(&mut self, ticket: Ticket, result: Result<(), Failure>) {
        let reading = self.loads.get(&ticket).is_some_and(|load| matches!(load.have, Have::Reading));
        let Some(load) = reading.then(|| self.loads.remove(&ticket)).flatten() else { return };
        match (result, load.want) {
            (Err(failure), Want::Bytes(ask)) => self.failed(load.request, failure, ask),
            _ => self.reports.received.push(load.request),
        }
    }

    /// A lease is over, or was never granted: its blocks may be reused.
    pub fn lent_ended(&mut self, ticket: Ticket) {
        if let Some(request) = self.lent.remove(&ticket) {
            self.reports.sent.push(request);
        }
    }

    fn failed(&mut self, request: String, failure: Failure, ask: Ask) {
        self.reports.received.push(request.clone());
        self.reports.failed.push(FailedLoad { request, failure, ask });
    }

    /// Whether vLLM waits for the bytes of a request.
    pub fn waits_for_bytes(&self, ticket: Ticket) -> bool {
        self.loads.get(&ticket).is_some_and(|load| matches!(load.want, Want::Bytes(_)))
    }

    /// What is new for vLLM.
    pub fn take_reports(&mut self) -> Reports {
        std::mem::take(&mut self.reports)
    }

    /// Passages under way: lent, and loading.
    pub fn open(&self) -> (usize, usize) {
        (self.lent.len(), self.loads.len())
    }
}
