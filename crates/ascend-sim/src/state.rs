//! The folder that processes share: who lives, file locks, small tables.
//!
//! `<state>/server<N>/` holds, for each machine, `lock`, `tables.json`, `cells` and, for each device, `dev<id>.mem`.
//! Whoever changes a table holds the lock; a table is written beside and renamed, so that a process that dies in
//! between leaves the old one.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::fail::{Done, Fail};

/// One process, told apart from a later one with the same number by its start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub start: u64,
}

impl Process {
    /// This one.
    #[must_use]
    pub fn this() -> Self {
        let pid = std::process::id() as i32;
        Self { pid, start: started(pid).unwrap_or(0) }
    }

    /// The one that now has this number.
    #[must_use]
    pub fn with_pid(pid: i32) -> Option<Self> {
        started(pid).map(|start| Self { pid, start })
    }

    /// Whether it still runs. One that has ended and was not waited for does not.
    #[must_use]
    pub fn alive(&self) -> bool {
        started(self.pid) == Some(self.start)
    }
}

/// Start time of a running process.
fn started(pid: i32) -> Option<u64> {
    let mut text = String::new();
    File::open(format!("/proc/{pid}/stat")).ok()?.read_to_string(&mut text).ok()?;
    // The name, in parentheses, may hold anything.
    let (_, rest) = text.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    if matches!(fields.next()?, "Z" | "X" | "x") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// The shared folder of one machine.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Processes are kept apart by the file's lock, threads of this one by this.
    threads: Mutex<()>,
    lock: File,
}

/// The machine's lock, held.
#[derive(Debug)]
pub struct Locked<'a> {
    folder: &'a Folder,
    _threads: MutexGuard<'a, ()>,
}

impl Folder {
    /// Opens, and creates if need be, the folder of a machine.
    ///
    /// # Errors
    /// INTERNAL when the file system refuses.
    pub fn open(state: &Path, server: u32) -> Done<Self> {
        let path = state.join(format!("server{server}"));
        std::fs::create_dir_all(&path).map_err(|error| Fail::system(path.display(), &error))?;
        let name = path.join("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&name);
        let lock = lock.map_err(|error| Fail::system(name.display(), &error))?;
        Ok(Self { path, threads: Mutex::new(()), lock })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the machine's lock. Short: other processes wait.
    ///
    /// # Errors
    /// INTERNAL when the file cannot be locked.
    pub fn lock(&self) -> Done<Locked<'_>> {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        flock(&self.lock, libc::LOCK_EX).map_err(|error| Fail::system("lock", &error))?;
        Ok(Locked { folder: self, _threads: threads })
    }
}

impl Locked<'_> {
    /// Reads a table; the empty one if there is none.
    ///
    /// # Errors
    /// INTERNAL when it cannot be read.
    pub fn read<T: DeserializeOwned + Default>(&self, name: &str) -> Done<T> {
        let path = self.folder.path.join(name);
        match std::fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|error| Fail::system(path.display(), &error.into()))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(T::default()),
            Err(error) => Err(Fail::system(path.display(), &error)),
        }
    }

    /// Replaces a table as a whole.
    ///
    /// # Errors
    /// INTERNAL when it cannot be written.
    pub fn write<T: Serialize>(&self, name: &str, table: &T) -> Done {
        let path = self.folder.path.join(name);
        let beside = self.folder.path.join(format!("{name}.new"));
        let bytes = serde_json::to_vec(table).map_err(|error| Fail::system(path.display(), &error.into()))?;
        std::fs::write(&beside, bytes).map_err(|error| Fail::system(beside.display(), &error))?;
        std::fs::rename(&beside, &path).map_err(|error| Fail::system(path.display(), &error))
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // Unlocked by word, not by closing: a forked child has the same open file, and would keep it locked.
        let _ = flock(&self.folder.lock, libc::LOCK_UN);
    }
}

fn flock(file: &File, how: libc::c_int) -> std::io::Result<()> {
    loop {
        // SAFETY: a plain call on an open descriptor.
        if unsafe { libc::flock(file.as_raw_fd(), how) } == 0 {
            return Ok(());
        }
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_ended_is_dead_also_before_it_is_waited_for() {
        assert!(Process::this().alive());
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::with_pid(child.id() as i32).unwrap();
        assert!(process.alive());
        assert!(!Process { start: process.start + 1, ..process }.alive(), "another process with its number");
        child.kill().unwrap();
        // Killed, and not waited for yet: a while at most until the kernel has ended it.
        let dead = (0..3000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            !process.alive()
        });
        child.wait().unwrap();
        assert!(dead);
    }

    #[test]
    fn tables_are_empty_at_first_and_read_back_as_written() {
        let folder =
            Folder::open(&std::env::temp_dir().join(format!("ropeway-sim-state-{}", std::process::id())), 0);
        let folder = folder.unwrap();
        let locked = folder.lock().unwrap();
        assert!(locked.read::<Vec<u32>>("t").unwrap().is_empty());
        locked.write("t", &[1, 2]).unwrap();
        assert_eq!(locked.read::<Vec<u32>>("t").unwrap(), [1, 2]);
        drop(locked);
        std::fs::remove_dir_all(folder.path().parent().unwrap()).unwrap();
    }
}
