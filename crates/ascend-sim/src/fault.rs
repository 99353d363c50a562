//! Scripted faults: which go wrong, where, how often.
//!
//! A script is lines or `;`-separated statements `name key=value ...`; `seed=N` alone sets the seed, `#` starts a
//! comment. Keys that every fault has: `op=`, `device=` (physical id) and `remote=` narrow where it applies,
//! `after=N` lets the first N pass, `count=N` ends it after N, `p=0..1` draws. All others are the fault's own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::fail::{Done, Fail, code};

/// The faults that are known, each with its own keys.
pub const KNOWN: &[(&str, &[&str])] = &[
    ("late_completion", &["ms"]),
    ("partial_write", &["fraction", "code"]),
    ("slow", &["ms", "us_per_descriptor"]),
    ("lost_link", &["code"]),
    ("device_lost", &["code"]),
    ("ecc", &[]),
    ("out_of_streams", &[]),
    ("out_of_events", &[]),
    ("blackhole_connect", &["ms"]),
    ("peer_restart", &[]),
    ("alloc_fail", &[]),
    ("destroy_quiesces", &["mode", "ms"]),
    ("hang", &[]),
    ("refuse", &["code"]),
    ("stall", &["ms"]),
    ("unregistered", &[]),
];

/// Where something may go wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Site<'a> {
    /// The C function, or the kind of work.
    pub op: &'a str,
    /// The device's physical id.
    pub device: Option<u32>,
    /// The peer's address.
    pub remote: Option<&'a str>,
}

/// The faults of this process.
#[derive(Debug, Default)]
pub struct Faults {
    inner: Mutex<Inner>,
    /// Whether there is any rule: most runs have none, and calls on hot paths ask.
    armed: AtomicBool,
    /// Scripts so far.
    scripts: AtomicU64,
}

#[derive(Debug, Default)]
struct Inner {
    rules: Vec<Rule>,
    random: u64,
}

#[derive(Debug)]
struct Rule {
    name: String,
    keys: BTreeMap<String, String>,
    after: u64,
    count: u64,
    chance: f64,
}

/// A fault that applies.
#[derive(Clone, Debug)]
pub struct Hit {
    keys: BTreeMap<String, String>,
}

impl Faults {
    /// Reads a script.
    ///
    /// # Errors
    /// INVALID_PARAM naming the statement that is not understood.
    pub fn parse(script: &str) -> Done<Self> {
        let it = Self::default();
        it.replace(script)?;
        Ok(it)
    }

    /// Puts another script in place of this one.
    ///
    /// # Errors
    /// As [`Faults::parse`]; the old script then stays.
    pub fn replace(&self, script: &str) -> Done {
        let new = Inner::parse(script)?;
        self.armed.store(!new.rules.is_empty(), Ordering::Release);
        *self.inner.lock().unwrap_or_else(PoisonError::into_inner) = new;
        self.scripts.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Where the fault `hang` happens now, does not return before another script is in force.
    pub fn hang(&self, site: Site<'_>) {
        let script = self.scripts.load(Ordering::Acquire);
        if self.hit("hang", site).is_some() {
            tracing::debug!(op = site.op, "a call hangs, as the fault script says");
            while self.scripts.load(Ordering::Acquire) == script {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }

    /// Whether there is nothing that could happen.
    pub fn is_empty(&self) -> bool {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).rules.is_empty()
    }

    /// Whether the fault happens here, now. Counts.
    pub fn hit(&self, name: &str, site: Site<'_>) -> Option<Hit> {
        if !self.armed.load(Ordering::Acquire) {
            return None;
        }
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Inner { rules, random } = &mut *inner;
        for rule in rules.iter_mut().filter(|rule| rule.name == name && rule.matches(site)) {
            if rule.after > 0 {
                rule.after -= 1;
                continue;
            }
            if rule.count == 0 || (rule.chance < 1.0 && draw(random) >= rule.chance) {
                continue;
            }
            rule.count -= 1;
            return Some(Hit { keys: rule.keys.clone() });
        }
        None
    }

    /// Whether the fault is in force here: as [`Faults::hit`], but nothing is counted.
    pub fn active(&self, name: &str, site: Site<'_>) -> Option<Hit> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rules = inner.rules.iter();
        let rule = rules
            .find(|rule| rule.name == name && rule.matches(site) && rule.after == 0 && rule.count > 0)?;
        Some(Hit { keys: rule.keys.clone() })
    }
}

impl Inner {
    fn parse(script: &str) -> Done<Self> {
        let mut it = Self { rules: Vec::new(), random: 1 };
        for line in script.lines() {
            let line = line.split('#').next().unwrap_or_default();
            for statement in line.split(';').map(str::trim).filter(|statement| !statement.is_empty()) {
                let wrong =
                    |why: &str| Fail::new(code::INVALID_PARAM, format!("fault script: {statement:?}: {why}"));
                if let Some(seed) = statement.strip_prefix("seed=") {
                    it.random =
                        seed.parse::<u64>().map_err(|_| wrong("the seed is no number"))?.wrapping_add(1);
                    continue;
                }
                it.rules.push(Rule::parse(statement).map_err(|why| wrong(&why))?);
            }
        }
        Ok(it)
    }
}

impl Rule {
    fn parse(statement: &str) -> Result<Self, String> {
        let mut words = statement.split_whitespace();
        let head = words.next().unwrap_or_default();
        // `name=value` is short for `name mode=value`.
        let (name, mode) = head.split_once('=').map_or((head, None), |(name, mode)| (name, Some(mode)));
        let Some((_, own)) = KNOWN.iter().find(|(known, _)| *known == name) else {
            let known: Vec<_> = KNOWN.iter().map(|(known, _)| *known).collect();
            return Err(format!("unknown fault; known: {}", known.join(", ")));
        };
        let mut rule = Self {
            name: name.to_owned(),
            keys: mode.map(|mode| ("mode".to_owned(), mode.to_owned())).into_iter().collect(),
            after: 0,
            count: u64::MAX,
            chance: 1.0,
        };
        for word in words {
            let (key, value) = word.split_once('=').ok_or_else(|| format!("{word:?} is no key=value"))?;
            let number = || value.parse::<u64>().map_err(|_| format!("{word:?} is no number"));
            match key {
                "after" => rule.after = number()?,
                "count" => rule.count = number()?,
                "p" => rule.chance = value.parse().map_err(|_| format!("{word:?} is no number"))?,
                "op" | "device" | "remote" => drop(rule.keys.insert(key.to_owned(), value.to_owned())),
                _ if own.contains(&key) => drop(rule.keys.insert(key.to_owned(), value.to_owned())),
                _ => return Err(format!("{name} has no key {key:?}")),
            }
        }
        Ok(rule)
    }

    fn matches(&self, site: Site<'_>) -> bool {
        let same = |key: &str, here: Option<&str>| self.keys.get(key).is_none_or(|want| here == Some(want));
        same("op", Some(site.op))
            && same("remote", site.remote)
            && same("device", site.device.map(|id| id.to_string()).as_deref())
    }
}

impl Hit {
    /// A value of the fault's own.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.keys.get(key).map(String::as_str)
    }

    /// A whole number, or `default`.
    #[must_use]
    pub fn number(&self, key: &str, default: u64) -> u64 {
        self.get(key).and_then(|value| value.parse().ok()).unwrap_or(default)
    }

    /// `ms=`, or `default` milliseconds.
    #[must_use]
    pub fn ms(&self, default: u64) -> Duration {
        Duration::from_millis(self.number("ms", default))
    }

    /// `code=`, or `default`.
    #[must_use]
    pub fn code(&self, default: i32) -> i32 {
        self.get("code").and_then(|value| value.parse().ok()).unwrap_or(default)
    }

    /// `fraction=`, kept within 0 and 1, or a half.
    #[must_use]
    pub fn fraction(&self) -> f64 {
        self.get("fraction").and_then(|value| value.parse().ok()).unwrap_or(0.5_f64).clamp(0.0, 1.0)
    }
}

/// A number from 0 to 1 (xorshift64*).
fn draw(state: &mut u64) -> f64 {
    *state = (*state).max(1);
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(op: &str) -> Site<'_> {
        Site { op, ..Site::default() }
    }

    #[test]
    fn after_lets_some_pass_and_count_ends_it() {
        let faults = Faults::parse("alloc_fail after=1 count=2").unwrap();
        let hits: Vec<_> = (0..5).map(|_| faults.hit("alloc_fail", site("x")).is_some()).collect();
        assert_eq!(hits, [false, true, true, false, false]);
    }

    #[test]
    fn a_fault_applies_only_where_its_filters_say() {
        let faults = Faults::parse("slow op=copy device=3 ms=7; blackhole_connect remote=1.2.3.4:5").unwrap();
        assert!(faults.hit("slow", site("copy")).is_none());
        assert!(faults.hit("slow", Site { device: Some(3), ..site("other") }).is_none());
        let hit = faults.hit("slow", Site { device: Some(3), ..site("copy") }).unwrap();
        assert_eq!(hit.ms(1), Duration::from_millis(7));
        assert!(faults.active("blackhole_connect", Site { remote: Some("1.2.3.4:5"), ..site("") }).is_some());
        assert!(faults.active("blackhole_connect", Site { remote: Some("1.2.3.4:6"), ..site("") }).is_none());
    }

    #[test]
    fn a_call_hangs_until_the_script_is_another() {
        let faults = Faults::parse("hang op=x").unwrap();
        std::thread::scope(|scope| {
            let hangs = scope.spawn(|| faults.hang(site("x")));
            faults.hang(site("y"));
            std::thread::sleep(Duration::from_millis(50));
            assert!(!hangs.is_finished());
            faults.replace("").unwrap();
        });
    }

    #[test]
    fn the_same_seed_draws_the_same() {
        let run = |seed| {
            let faults = Faults::parse(&format!("seed={seed}\necc p=0.5 # half of them")).unwrap();
            (0..64).map(|_| faults.hit("ecc", site("")).is_some()).collect::<Vec<_>>()
        };
        assert_eq!(run(4), run(4));
        assert_ne!(run(4), run(5));
    }

    #[test]
    fn a_statement_that_is_not_understood_is_refused_and_the_old_script_stays() {
        let faults = Faults::parse("destroy_quiesces=late ms=5").unwrap();
        for script in ["sloow", "slow ms", "slow colour=1", "slow count=x", "seed=x"] {
            assert_eq!(faults.replace(script).unwrap_err().code, code::INVALID_PARAM, "{script}");
        }
        assert_eq!(faults.active("destroy_quiesces", site("")).unwrap().get("mode"), Some("late"));
    }
}
