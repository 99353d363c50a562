//! How much memory the process may still take, before the kernel kills for it.
//!
//! memfd ignores the size of `/dev/shm`; the real limit is the memory cgroup (of the process and of each group above
//! it), then the machine. Both end in a killed process, not in an error; so they are looked at first.

use std::path::Path;

use ropeway_core::{Error, ErrorKind, Result};

/// Refuses `len` bytes that the tightest limit has no room for.
///
/// # Errors
/// `Resource`, naming the file of the limit, its value and what is used.
pub(super) fn admit(operation: &'static str, len: u64) -> Result<()> {
    // Pseudo files only: a few reads of at most some KiB.
    tightest(&|path| std::fs::read_to_string(path).ok())
        .map_or(Ok(()), |tightest| tightest.admit(operation, len))
}

/// A limit on memory and what is used of it, in bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Limit {
    /// Where it is written.
    pub(super) file: String,
    pub(super) max: u64,
    /// Without page cache that the kernel gives back when asked.
    pub(super) used: u64,
}

impl Limit {
    pub(super) fn room(&self) -> u64 {
        self.max.saturating_sub(self.used)
    }

    pub(super) fn admit(&self, operation: &'static str, len: u64) -> Result<()> {
        if len <= self.room() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Resource,
            operation,
            format!(
                "{len} bytes do not fit: {} allows {}, {} are used, {} are left; ask for less or raise that limit",
                self.file,
                self.max,
                self.used,
                self.room()
            ),
        ))
    }
}

type ReadFile<'a> = &'a dyn Fn(&Path) -> Option<String>;

/// The limit with the least room: the process's own cgroup, those above it (v1 and v2), and the machine.
pub(super) fn tightest(read: ReadFile<'_>) -> Option<Limit> {
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let mounts = read(Path::new("/proc/self/mountinfo")).unwrap_or_default();
    let mut limits = Vec::new();
    for mount in mounts.lines().filter_map(Mount::parse) {
        if let Some(path) = mount.group_of(&groups) {
            mount.collect(&path, read, &mut limits);
        }
    }
    limits.extend(machine(read));
    limits.into_iter().min_by_key(Limit::room)
}

/// The names of the files differ between the versions.
struct Version {
    unified: bool,
    max: &'static str,
    used: &'static str,
    /// Reclaimable page cache, in `memory.stat`; v1's totals include the groups below, as `used` does.
    cache: [&'static str; 2],
}

const V1: Version = Version {
    unified: false,
    max: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    cache: ["total_inactive_file", "total_active_file"],
};
const V2: Version = Version {
    unified: true,
    max: "memory.max",
    used: "memory.current",
    cache: ["inactive_file", "active_file"],
};

/// A mounted cgroup tree that has memory limits.
struct Mount<'a> {
    version: &'static Version,
    root: &'a str,
    point: &'a str,
}

impl<'a> Mount<'a> {
    /// One line of mountinfo: `31 23 0:28 /root /point opts... - type source superopts`.
    fn parse(line: &'a str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let (root, point) = (left.next()?, left.next()?);
        let mut right = right.split(' ');
        let kind = right.next()?;
        let options = right.nth(1)?;
        let version = match kind {
            "cgroup2" => &V2,
            "cgroup" if options.split(',').any(|option| option == "memory") => &V1,
            _ => return None,
        };
        Some(Self { version, root, point })
    }

    /// The process's group below this mount's point, from lines such as `4:memory:/a/b` and `0::/a/b`.
    fn group_of(&self, groups: &'a str) -> Option<String> {
        let path = groups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            let ours = if self.version.unified {
                id == "0" && controllers.is_empty()
            } else {
                controllers.split(',').any(|c| c == "memory")
            };
            ours.then_some(path)
        })?;
        // The mount may show a part of the tree only (a container): cut what lies above it. A path outside of it
        // (another cgroup namespace) leaves the mount's own root.
        let below = if self.root == "/" { Some(path) } else { path.strip_prefix(self.root) };
        let below = below.filter(|below| !below.split('/').any(|name| name == "..")).unwrap_or("");
        Some(below.trim_end_matches('/').to_owned())
    }

    fn collect(&self, group: &str, read: ReadFile<'_>, into: &mut Vec<Limit>) {
        let mut group = group;
        loop {
            into.extend(self.limit(&format!("{}{group}", self.point), read));
            match group.rsplit_once('/') {
                Some((above, _)) => group = above,
                None => return,
            }
        }
    }

    fn limit(&self, folder: &str, read: ReadFile<'_>) -> Option<Limit> {
        let file = format!("{folder}/{}", self.version.max);
        let max = number(&read(Path::new(&file))?)?;
        let used = number(&read(Path::new(&format!("{folder}/{}", self.version.used)))?)?;
        let stat = read(Path::new(&format!("{folder}/memory.stat"))).unwrap_or_default();
        let cache: u64 = self.version.cache.iter().filter_map(|name| field(&stat, name)).sum();
        Some(Limit { file, max, used: used.saturating_sub(cache) })
    }
}

fn machine(read: ReadFile<'_>) -> Option<Limit> {
    let file = "/proc/meminfo";
    let info = read(Path::new(file))?;
    let kib = |name| field(&info, name).map(|kib| kib.saturating_mul(1024));
    let max = kib("MemTotal:")?.saturating_add(kib("SwapTotal:").unwrap_or(0));
    let left = kib("MemAvailable:")?.saturating_add(kib("SwapFree:").unwrap_or(0));
    Some(Limit { file: file.into(), max, used: max.saturating_sub(left) })
}

/// `max` (v2: no limit) and v1's huge number are no limits; both leave `None` or room without end.
fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(name)).then(|| words.next())?.and_then(number)
    })
}
