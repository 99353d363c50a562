//! A peer's process on this host: who it is, and the proof of its death.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use bytes::{BufMut, BytesMut};
use ropeway_core::Result;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};

use super::offer::no_random;

/// A process, told apart from every other one of the host and of the past.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ProcessId {
    /// Drawn once per process.
    token: u64,
    pid: u32,
    /// When it was started, in the kernel's ticks since boot: a pid that is used again has another time.
    started: u64,
    /// The pid namespace in which `pid` counts.
    namespace: u64,
}

impl ProcessId {
    pub(super) fn here() -> Result<Self> {
        static TOKEN: OnceLock<u64> = OnceLock::new();
        let token = match TOKEN.get() {
            Some(token) => *token,
            None => {
                let mut bytes = [0; 8];
                getrandom::fill(&mut bytes).map_err(no_random)?;
                *TOKEN.get_or_init(|| u64::from_le_bytes(bytes))
            }
        };
        let pid = std::process::id();
        Ok(Self { token, pid, started: started(pid).unwrap_or(0), namespace: namespace().unwrap_or(0) })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.token);
        out.put_u32_le(self.pid);
        out.put_u64_le(self.started);
        out.put_u64_le(self.namespace);
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (token, rest) = bytes.split_first_chunk()?;
        let (pid, rest) = rest.split_first_chunk()?;
        let (started, rest) = rest.split_first_chunk()?;
        let (namespace, rest) = rest.split_first_chunk()?;
        let process = Self {
            token: u64::from_le_bytes(*token),
            pid: u32::from_le_bytes(*pid),
            started: u64::from_le_bytes(*started),
            namespace: u64::from_le_bytes(*namespace),
        };
        Some((process, rest))
    }
}

/// A live process that is watched. The pidfd pins its identity.
pub(super) struct Process {
    pidfd: OwnedFd,
    gone: bool,
}

impl Process {
    /// `None` where the process cannot be seen from here: its death is then not proven, and the time alone tells.
    pub(super) fn find(id: &ProcessId) -> Option<Self> {
        if id.namespace == 0 || namespace() != Some(id.namespace) {
            return None;
        }
        let pid = Pid::from_raw(i32::try_from(id.pid).ok()?)?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // After it was pinned: now the pid cannot become another's.
        (id.started != 0 && started(id.pid) == Some(id.started)).then_some(Self { pidfd, gone: false })
    }

    /// Whether none of its threads runs any more.
    pub(super) fn is_gone(&mut self) -> bool {
        if !self.gone {
            let mut poll = [PollFd::new(&self.pidfd, PollFlags::IN)];
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            self.gone = matches!(rustix::event::poll(&mut poll, Some(&now)), Ok(1..));
        }
        self.gone
    }
}

/// The 22nd field of `/proc/<pid>/stat`. The second, the name, is in parentheses and may hold anything.
fn started(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = text.rsplit_once(')')?;
    after_name.split_whitespace().nth(19)?.parse().ok()
}

fn namespace() -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self/ns/pid").ok().map(|found| found.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_seen_to_end() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let here = ProcessId::here().unwrap();
        let id = ProcessId { pid: child.id(), started: started(child.id()).unwrap(), ..here };
        let mut process = Process::find(&id).expect("a child can be seen");
        assert!(!process.is_gone());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(process.is_gone());
        assert!(Process::find(&id).is_none(), "what is of the past is not found");
    }

    #[test]
    fn a_pid_that_was_used_again_is_another_process() {
        let here = ProcessId::here().unwrap();
        assert!(Process::find(&here).is_some());
        assert!(Process::find(&ProcessId { started: here.started + 1, ..here }).is_none());
        assert!(Process::find(&ProcessId { namespace: here.namespace + 1, ..here }).is_none());
    }
}
