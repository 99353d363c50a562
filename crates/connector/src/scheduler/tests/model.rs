//! Any order of calls and ends, against a model of vLLM's own bookkeeping: one scheduler half, two ranks.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::worker::tickets::{Action, Failure, Tickets};

const RANKS: usize = 2;
const BLOCK: u64 = 16;

#[derive(Clone, Debug)]
enum Operation {
    Arrive {
        kind: u8,
        prompt: u64,
    },
    /// vLLM asks, and has no room yet.
    Ask {
        request: usize,
    },
    Schedule {
        request: usize,
        hit: u64,
    },
    Preempt {
        request: usize,
    },
    Finish {
        request: usize,
        complete: bool,
    },
    /// A step: messages go to the workers.
    Step,
    /// One thing that a rank does comes to its end.
    Work {
        rank: usize,
        which: usize,
        good: bool,
    },
    /// The ranks report; those whose loads failed are computed here, or end.
    Poll {
        recompute: bool,
    },
}

fn operation() -> impl Strategy<Value = Operation> {
    let request = || 0..8_usize;
    prop_oneof![
        3 => (0..4_u8, 1..70_u64).prop_map(|(kind, prompt)| Operation::Arrive { kind, prompt }),
        1 => request().prop_map(|request| Operation::Ask { request }),
        4 => (request(), 0..5_u64).prop_map(|(request, hit)| Operation::Schedule { request, hit }),
        1 => request().prop_map(|request| Operation::Preempt { request }),
        2 => (request(), any::<bool>()).prop_map(|(request, complete)| Operation::Finish { request, complete }),
        4 => Just(Operation::Step),
        6 => (0..RANKS, 0..8_usize, prop::bool::weighted(0.8))
            .prop_map(|(rank, which, good)| Operation::Work { rank, which, good }),
        4 => any::<bool>().prop_map(|recompute| Operation::Poll { recompute }),
    ]
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Status {
    Waiting,
    /// `WAITING_FOR_REMOTE_KVS`; whether the report has come.
    Parked {
        received: bool,
    },
    Running,
    Finished,
}

#[derive(Debug)]
struct Request {
    status: Status,
    prompt: u64,
    blocks: Vec<u32>,
}

/// A rank: the machine, and what its engine would be doing.
#[derive(Default)]
struct Rank {
    tickets: Tickets,
    doing: Vec<Action>,
    held: BTreeSet<Ticket>,
}

struct World {
    scheduler: Scheduler,
    ranks: Vec<Rank>,
    requests: BTreeMap<String, Request>,
    free: BTreeSet<u32>,
    /// How many ranks have reported a request: sent, received, failed among these.
    sent: BTreeMap<String, usize>,
    received: BTreeMap<String, (usize, bool)>,
    arrived: usize,
}

impl World {
    fn new() -> Self {
        Self {
            scheduler: scheduler(),
            ranks: (0..RANKS).map(|_| Rank::default()).collect(),
            requests: BTreeMap::new(),
            free: (1..200).collect(),
            sent: BTreeMap::new(),
            received: BTreeMap::new(),
            arrived: 0,
        }
    }

    fn apply(&mut self, operation: Operation) {
        match operation {
            Operation::Arrive { kind, prompt } => self.arrive(kind, prompt),
            Operation::Ask { request } => {
                let waiting = self.pick(request, |status| status == Status::Waiting);
                if let Some((id, prompt)) = waiting {
                    self.scheduler.matched(&id, prompt, 0);
                }
            }
            Operation::Schedule { request, hit } => self.schedule(request, hit),
            Operation::Preempt { request } => {
                if let Some((id, _)) = self.pick(request, |status| status == Status::Running) {
                    self.free_blocks(&id);
                    self.requests.get_mut(&id).expect("picked").status = Status::Waiting;
                }
            }
            Operation::Finish { request, complete } => {
                let open = self.pick(request, |status| status != Status::Finished);
                if let Some((id, _)) = open {
                    self.finish(&id, complete);
                }
            }
            Operation::Step => self.step(),
            Operation::Work { rank, which, good } => self.work(rank, which, good),
            Operation::Poll { recompute } => self.poll(recompute),
        }
    }

    fn pick(&self, at: usize, wanted: impl Fn(Status) -> bool) -> Option<(String, u64)> {
        let mut fitting = self.requests.iter().filter(|(_, request)| wanted(request.status));
        let count = fitting.clone().count();
        fitting.nth(at % count.max(1)).map(|(id, request)| (id.clone(), request.prompt))
    }

    fn arrive(&mut self, kind: u8, prompt: u64) {
        let id = format!("r{}", self.arrived);
        self.arrived += 1;
        let there: Vec<u32> = (0..prompt.div_ceil(BLOCK) as u32).collect();
        let params = match kind {
            0 => Value::Null,
            1 => produce(),
            2 => computed(self.arrived as u64 + 10, &[there], prompt as u32),
            _ => json!({"do_remote_prefill": true, "remote_engine_id": "someone else's"}),
        };
        self.scheduler.on_new_request(NewRequest { id: &id, params: &params });
        let waiting = Request { status: Status::Waiting, prompt, blocks: vec![] };
        self.requests.insert(id, waiting);
    }

    fn schedule(&mut self, at: usize, hit: u64) {
        let ready = |status| matches!(status, Status::Waiting | Status::Parked { received: true });
        let Some((id, prompt)) = self.pick(at, ready) else { return };
        let request = &self.requests[&id];
        let mut load = 0;
        if request.status == Status::Waiting {
            let here = (hit * BLOCK).min(prompt / BLOCK * BLOCK);
            let matched = self.scheduler.matched(&id, prompt, here);
            assert_eq!(matched.asynchronous, matched.tokens > 0);
            assert!(here + matched.tokens <= prompt);
            load = matched.tokens;
            let count = prompt.div_ceil(BLOCK) as usize;
            if self.free.len() < count {
                return;
            }
            let blocks: Vec<u32> = self.free.iter().copied().take(count).collect();
            blocks.iter().for_each(|block| assert!(self.free.remove(block)));
            self.requests.get_mut(&id).expect("picked").blocks = blocks;
        }
        let request = self.requests.get_mut(&id).expect("picked");
        request.status = if load > 0 { Status::Parked { received: false } } else { Status::Running };
        self.scheduler.allocated(&id, vec![request.blocks.clone()], load);
    }

    fn finish(&mut self, id: &str, complete: bool) {
        let request = self.requests.get_mut(id).expect("it is known");
        let complete = complete && request.status == Status::Running;
        let parked = request.status == Status::Parked { received: false };
        request.status = Status::Finished;
        let how = if complete { Finish::Complete } else { Finish::Broken };
        let finished = self.scheduler.finished(id, how, vec![request.blocks.clone()], request.prompt);
        assert_eq!(finished.keep_blocks, finished.params.is_some());
        if !parked && !finished.keep_blocks {
            self.free_blocks(id);
            self.requests.remove(id);
        }
    }

    fn free_blocks(&mut self, id: &str) {
        let blocks = std::mem::take(&mut self.requests.get_mut(id).expect("it is known").blocks);
        for block in blocks {
            assert!(self.free.insert(block), "block {block} came back twice");
            for action in self.ranks.iter().flat_map(|rank| &rank.doing) {
                match action {
                    Action::Read { ask, .. } => {
                        assert!(!ask.local[0].contains(&block), "{block} is being filled")
                    }
                    Action::Lend { blocks, .. } => assert!(!blocks[0].contains(&block), "{block} is lent"),
                    _ => {}
                }
            }
        }
    }

    fn step(&mut self) {
        let messages = meta::decode(&self.scheduler.build_meta()).expect("they are of this version");
        for rank in &mut self.ranks {
            for message in messages.clone() {
                let action = rank.tickets.told(message);
                rank.take_on(action);
            }
        }
    }

    fn work(&mut self, rank: usize, which: usize, good: bool) {
        let rank = &mut self.ranks[rank];
        if rank.doing.is_empty() {
            return;
        }
        let failure = Failure { kind: ropeway::ErrorKind::LinkLost, text: "gone".to_owned() };
        let result = if good { Ok(()) } else { Err(failure) };
        match rank.doing.remove(which % rank.doing.len()) {
            Action::Lend { ticket, .. } => rank.tickets.lent_ended(ticket),
            Action::Claim { ticket, .. } => {
                if good {
                    assert!(rank.held.insert(ticket));
                }
                let action = rank.tickets.claimed(ticket, result);
                rank.take_on(action);
            }
            Action::Read { ticket, .. } => {
                assert!(rank.held.remove(&ticket), "read without a grant");
                rank.tickets.read(ticket, result);
            }
            other => panic!("{other:?} is not work"),
        }
    }

    /// As vLLM does: a report counts when every rank has made it, failures are looked at first, then the connector is
    /// told, then blocks come back.
    fn poll(&mut self, recompute: bool) {
        let (mut sent, mut received) = (Vec::new(), Vec::new());
        for rank in &mut self.ranks {
            let reports = rank.tickets.take_reports();
            for id in reports.sent {
                let count = self.sent.entry(id.clone()).or_default();
                *count += 1;
                if *count == RANKS {
                    self.sent.remove(&id);
                    sent.push(id);
                }
            }
            for id in reports.received {
                let failed = reports.failed.iter().any(|load| load.request == id);
                let (count, bad) = self.received.entry(id.clone()).or_default();
                *count += 1;
                *bad |= failed;
                if *count == RANKS {
                    let (_, bad) = self.received.remove(&id).expect("just counted");
                    received.push((id, bad));
                }
            }
        }
        for (id, bad) in &received {
            let request = self.requests.get(id).unwrap_or_else(|| panic!("{id} is not known any more"));
            if *bad && !recompute && request.status != Status::Finished {
                self.finish(id, false);
            }
        }
        let ids: Vec<String> = received.iter().map(|(id, _)| id.clone()).collect();
        self.scheduler.update(&sent, &ids);
        for (id, bad) in received {
            match self.requests[&id].status {
                Status::Parked { received: false } if bad => {
                    self.free_blocks(&id);
                    self.requests.get_mut(&id).expect("known").status = Status::Waiting;
                }
                Status::Parked { received: false } => {
                    self.requests.get_mut(&id).expect("known").status = Status::Parked { received: true };
                }
                Status::Finished => self.gone(&id),
                other => panic!("{id} is {other:?}, but it is reported as received"),
            }
        }
        for id in sent {
            assert_eq!(self.requests[&id].status, Status::Finished, "{id}");
            self.gone(&id);
        }
    }

    fn gone(&mut self, id: &str) {
        self.free_blocks(id);
        self.requests.remove(id);
    }

    /// Everything that is under way comes to its end.
    fn settle(&mut self) {
        while let Some((id, _)) = self.pick(0, |status| status != Status::Finished) {
            self.finish(&id, false);
        }
        for _ in 0..4 {
            self.step();
            for rank in 0..RANKS {
                while !self.ranks[rank].doing.is_empty() {
                    self.work(rank, 0, true);
                }
            }
            self.poll(true);
        }
        assert!(self.requests.is_empty(), "vLLM still has {:?}", self.requests);
        assert_eq!(self.free.len(), 199, "blocks did not come back");
        assert!(self.scheduler.is_empty() && !self.scheduler.is_busy(), "{:?}", self.scheduler);
        for rank in &self.ranks {
            assert_eq!((rank.tickets.open(), rank.held.len()), ((0, 0), 0), "{:?}", rank.tickets);
        }
        assert!(self.sent.is_empty() && self.received.is_empty(), "some rank did not report");
    }
}

impl Rank {
    fn take_on(&mut self, action: Option<Action>) {
        match action {
            Some(Action::Release { ticket }) => {
                assert!(self.held.remove(&ticket), "released without a grant")
            }
            Some(Action::Cancel { ticket }) => {
                let reading =
                    |action: &Action| matches!(action, Action::Read { ticket: t, .. } if *t == ticket);
                assert!(self.doing.iter().any(reading), "nothing is read");
            }
            Some(Action::Read { ticket, ask }) => {
                assert!(self.held.contains(&ticket), "read without a grant");
                self.doing.push(Action::Read { ticket, ask });
            }
            Some(other) => self.doing.push(other),
            None => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn every_block_comes_back_once_and_every_report_is_awaited(operations in prop::collection::vec(operation(), 0..80)) {
        let mut world = World::new();
        for operation in operations {
            world.apply(operation);
        }
        world.settle();
    }
}
