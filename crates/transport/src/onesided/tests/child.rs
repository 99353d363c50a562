//! A second process: this test binary again, told what to do line by line.

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use ropeway_core::{GrantId, Op, Rights};
use rustix::process::{Pid, Signal};

use crate::onesided::pause::{self, Point};
use crate::onesided::rig::*;
use crate::{Link, Memory, Role, TransportKind};

const MARK: &str = "ROPEWAY_TEST_CHILD";

/// The parent's hold on the second process. Killed when dropped.
pub(super) struct Child {
    process: std::process::Child,
    stdin: Option<ChildStdin>,
    answers: Receiver<String>,
}

impl Child {
    pub(super) fn spawn() -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "onesided::tests::child::second_process", "--nocapture", "--test-threads=1"])
            .env(MARK, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (tell, answers) = channel();
        let stderr = process.stderr.take().unwrap();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                match line.strip_prefix('@') {
                    Some(answer) => drop(tell.send(answer.to_owned())),
                    None => drop(writeln!(std::io::stderr(), "second process: {line}")),
                }
            }
        });
        let stdin = process.stdin.take();
        Self { process, stdin, answers }
    }

    /// Tells it a line; gives its answer.
    pub(super) fn tell(&mut self, line: &str) -> String {
        writeln!(self.stdin.as_ref().unwrap(), "{line}").unwrap();
        self.answer()
    }

    pub(super) fn answer(&self) -> String {
        self.answers.recv_timeout(WATCHDOG).expect("watchdog: the second process does not answer")
    }

    /// Tells it a line that has to go well.
    pub(super) fn must(&mut self, line: &str) -> String {
        let answer = self.tell(line);
        let answer = answer.strip_prefix("ok").unwrap_or_else(|| panic!("{line}: {answer}"));
        answer.trim().to_owned()
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    pub(super) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub(super) fn stop(&self) {
        rustix::process::kill_process(self.pid(), Signal::STOP).unwrap();
        let stat = format!("/proc/{}/stat", self.pid().as_raw_nonzero());
        eventually("the second process is stopped", || {
            std::fs::read_to_string(&stat).unwrap().rsplit(") ").next().unwrap().starts_with('T')
        });
    }

    pub(super) fn go_on(&self) {
        rustix::process::kill_process(self.pid(), Signal::CONT).unwrap();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The second process' engine.
struct Part {
    engine: Arc<crate::OneSided>,
    sink: Arc<Sink>,
    links: Vec<Arc<dyn Link>>,
    memory: Vec<Arc<Memory>>,
    held: Option<Held>,
}

/// Not a test by itself: the body of the second process.
#[test]
fn second_process() {
    if std::env::var_os(MARK).is_none() {
        return;
    }
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
    let mut part = None;
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let words: Vec<_> = line.split(' ').collect();
        let answer = obey(&mut part, &words).map_or_else(
            |error| format!("error {} {}", error.kind().label(), error.message()),
            |answer| format!("ok {answer}"),
        );
        writeln!(std::io::stderr(), "@{answer}").unwrap();
    }
}

fn obey(part: &mut Option<Part>, words: &[&str]) -> ropeway_core::Result<String> {
    let number = |index: usize| words[index].parse::<u64>().unwrap();
    // Before the engine opens: its threads must have the same rights.
    match words[0] {
        "uid" => {
            // SAFETY: changes this process' credentials, by glibc on all of its threads.
            assert_eq!(unsafe { libc::setuid(number(1) as libc::uid_t) }, 0);
            return Ok(String::new());
        }
        "dumpable" => {
            // SAFETY: sets a flag of this process.
            assert_eq!(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, number(1), 0, 0, 0) }, 0);
            return Ok(String::new());
        }
        _ => {}
    }
    let part = part.get_or_insert_with(|| Part {
        engine: engine(1),
        sink: Arc::default(),
        links: Vec::new(),
        memory: Vec::new(),
        held: None,
    });
    let kind = || KINDS.into_iter().find(|kind| kind.name() == words[1]).unwrap();
    match words[0] {
        "offer" => return Ok(hex(&transport(kind(), &part.engine).offer())),
        "passive" | "active" => {
            let role = if words[0] == "active" { Role::Active } else { Role::Passive };
            let config = config(role, unhex(words[2]).into(), 7, &part.sink);
            part.links.push(transport(kind(), &part.engine).link(config)?);
        }
        "attached" => part.sink.await_told(&Told::Attached),
        "lend" => {
            let memory = Memory::shared(number(2), &janitor())?;
            stamp(&memory, number(1));
            part.sink.offer(region(number(1) as u32), &memory);
            part.memory.push(memory);
        }
        "open" => {
            let rights = if words[2] == "read" { Rights::Read } else { Rights::Write };
            part.engine.fence().open(grant(number(1) as u32), rights)?;
        }
        "import" => {
            let len = part.links.last().unwrap().import(region(number(1) as u32), soon())?;
            return Ok(len.to_string());
        }
        "hold" => part.held = Some(Held::at(Point::Entered, grant(number(1) as u32))),
        "held" => eventually("held", || pause::held() > 0),
        "release" => drop(part.held.take()),
        "withdrawn" => part.sink.await_told(&Told::Withdrawn(region(number(1) as u32))),
        "read" | "write" => return Ok(transfer(part, words, number(1) as u32, number(2), number(3) as u32)),
        "close" => {
            part.links.last().unwrap().close();
            part.sink.await_told(&Told::Closed { peer_gone: false });
        }
        other => panic!("{other}"),
    }
    Ok(String::new())
}

/// `read|write SLOT LEN GRANT [wait]`
fn transfer(part: &mut Part, words: &[&str], slot: u32, len: u64, lease: u32) -> String {
    let op = if words[0] == "read" { Op::Read } else { Op::Write };
    let ours = private(len);
    if words.get(4) == Some(&"wait") {
        stamp(&ours, 1 << 60);
    } else {
        ours.fill(0, len, 7).unwrap();
    }
    let link = part.links.last().unwrap();
    let order = Order::new(
        op,
        GrantId { slot: lease, generation: 1 },
        List::reversed(len, 4096),
        &ours,
        region(slot),
    );
    if words.get(4) == Some(&"wait") {
        return format!("{:?}", order.run(&**link).kind);
    }
    order.post(&**link);
    part.memory.push(ours);
    String::new()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// This process' end of a link to a second process, which is the active side.
pub(super) fn linked(kind: TransportKind) -> (End, Child) {
    let mut child = Child::spawn();
    let engine = engine(1);
    let sink = Arc::new(Sink::default());
    let ours = transport(kind, &engine);
    let theirs = unhex(&child.must(&format!("offer {kind}")));
    let link = ours.link(config(Role::Passive, theirs.into(), 7, &sink)).unwrap();
    child.must(&format!("active {kind} {}", hex(&ours.offer())));
    sink.await_told(&Told::Attached);
    (End { engine, sink, link }, child)
}

/// Long enough for what must not happen to happen.
pub(super) fn a_while() {
    std::thread::sleep(Duration::from_millis(150));
}

pub(super) fn shortly() -> Instant {
    Instant::now() + Duration::from_millis(200)
}
