//! Real processes: a test runs its own binary again as a peer, tells it what to do line by line, and kills or stops it.
//!
//! The binary needs a test that calls [`be_peer_if_asked`]; [`Child::spawn`] names it. A child ends with its parent, and
//! by itself after a while, so that nothing is left over and nothing hangs for ever.

mod peer;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

pub use peer::{EDGE, Setup, be_peer_if_asked, values};

use crate::watchdog::{WAIT, eventually};

/// The environment variable that makes a test binary a peer; its value is a [`Setup`].
const ASKED: &str = "ROPEWAY_TEST_PEER";
/// What a peer prints begins with this; everything else on its stdout is the test harness's.
const MARK: &str = "@peer ";
/// The end of a transfer is told out of turn, and begins with this.
const ENDED: &str = "ended ";

/// A peer in a process of its own. Killed when dropped.
pub struct Child {
    process: std::process::Child,
    answers: Receiver<String>,
    ends: Receiver<String>,
}

impl Child {
    /// Runs `test` of the current binary, which is to call [`be_peer_if_asked`], as a peer.
    ///
    /// # Panics
    /// When the process cannot be started.
    pub fn spawn(test: &str, setup: &Setup) -> Self {
        let program = std::env::current_exe().expect("the test's own binary");
        let mut process = Command::new(program)
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .env(ASKED, setup.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a peer process starts");
        let stdout = process.stdout.take().expect("piped");
        let ((answered, answers), (ended, ends)) = (channel(), channel());
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let Ok(line) = line else { return };
                // The harness prints "test name ... " without a line's end before the first of ours.
                let Some((_, line)) = line.split_once(MARK) else { continue };
                let _ = match line.strip_prefix(ENDED) {
                    Some(line) => ended.send(line.to_owned()),
                    None => answered.send(line.to_owned()),
                };
            }
        });
        Self { process, answers, ends }
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Tells the peer something without waiting for its answer.
    pub fn say(&mut self, command: &str) {
        let stdin = self.process.stdin.as_mut().expect("piped");
        writeln!(stdin, "{command}").unwrap_or_else(|error| panic!("{command}: the peer has ended: {error}"));
    }

    /// The peer's next answer.
    ///
    /// # Panics
    /// When it does not come, or the peer ended.
    pub fn hear(&mut self) -> String {
        let answer = self.answers.recv_timeout(WAIT);
        answer.unwrap_or_else(|error| self.silent(error))
    }

    /// How a transfer that the peer was told to wait for ended: `ok BYTES`, or `error KIND ...`.
    ///
    /// # Panics
    /// When it does not end.
    pub fn hear_end(&mut self) -> String {
        let end = self.ends.recv_timeout(WAIT);
        end.unwrap_or_else(|error| self.silent(error))
    }

    fn silent(&mut self, error: RecvTimeoutError) -> String {
        match error {
            RecvTimeoutError::Timeout => panic!("the peer did not answer in {WAIT:?}"),
            RecvTimeoutError::Disconnected => panic!("the peer ended: {:?}", self.process.wait()),
        }
    }

    /// Tells the peer something and waits for its answer.
    pub fn ask(&mut self, command: &str) -> String {
        self.say(command);
        self.hear()
    }

    /// The same, where the answer has to be a success.
    ///
    /// # Panics
    /// When it is not.
    pub fn must(&mut self, command: &str) -> String {
        let answer = self.ask(command);
        match answer.strip_prefix("ok") {
            Some(rest) => rest.trim_start().to_owned(),
            None => panic!("{command}: {answer}"),
        }
    }

    /// `kill -9`, and proof of its death.
    pub fn kill(&mut self) {
        self.process.kill().expect("kill");
        self.process.wait().expect("dead");
    }

    /// `kill -9` without waiting.
    pub fn kill_at_once(&mut self) {
        self.process.kill().expect("kill");
    }

    /// SIGSTOP; returns when every thread has stopped.
    pub fn stop(&self) {
        self.signal(libc::SIGSTOP);
        eventually("the peer stops", || self.is_stopped());
    }

    /// SIGCONT.
    pub fn go_on(&self) {
        self.signal(libc::SIGCONT);
    }

    /// Waits until the process ends by itself; gives what it exited with.
    pub fn ended(&mut self) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().expect("wait") {
                return status.code();
            }
            assert!(start.elapsed() < WAIT, "the peer does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn is_stopped(&self) -> bool {
        let Ok(tasks) = std::fs::read_dir(format!("/proc/{}/task", self.pid())) else { return false };
        tasks.flatten().all(|task| {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            // The state follows the name, which is in brackets and may hold anything.
            stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
        })
    }

    fn signal(&self, signal: libc::c_int) {
        // SAFETY: our own child, which was not waited for yet: its pid is not another's.
        let sent = unsafe { libc::kill(self.pid() as libc::pid_t, signal) };
        assert_eq!(sent, 0, "signal {signal}: {}", std::io::Error::last_os_error());
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
