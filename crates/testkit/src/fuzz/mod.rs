//! Fuzz targets as plain functions: `fuzz/` runs them under libFuzzer, [`fuzz_smoke`] anywhere for a fixed number of
//! inputs.

mod directory;
mod input;
mod plan;
mod session;
mod wire;

#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

pub use input::Input;

use crate::sim::Rng;

/// Something that reads foreign bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// Frames in pieces.
    Frame,
    /// A session whose peer says anything, at any time.
    Session,
    /// Tokens and descriptors.
    Text,
    /// A plan request, and what the owner would serve for it.
    PlanRequest,
    /// Layouts as a peer sends them.
    Layout,
    /// Publications, lookups and changes in any order.
    Directory,
}

impl Target {
    /// Every target.
    pub const ALL: [Self; 6] =
        [Self::Frame, Self::Session, Self::Text, Self::PlanRequest, Self::Layout, Self::Directory];

    /// Feeds one input. Panics when an invariant is broken.
    pub fn run(self, data: &[u8]) {
        match self {
            Self::Frame => wire::frame(data),
            Self::Session => session::session(data),
            Self::Text => wire::text(data),
            Self::PlanRequest => plan::request(data),
            Self::Layout => plan::layout(data),
            Self::Directory => directory::directory(data),
        }
    }

    /// Inputs that are well formed: what mutation starts from.
    pub fn corpus(self) -> Vec<Vec<u8>> {
        match self {
            Self::Frame => wire::frames(),
            Self::Text => wire::texts(),
            Self::PlanRequest => plan::requests(),
            Self::Layout => plan::layouts(),
            Self::Session | Self::Directory => vec![(0..=255).collect()],
        }
    }
}

/// Feeds `iterations` inputs that follow from `seed`: mutated well-formed ones, and garbage.
///
/// # Panics
/// As the target does; the input is printed as a hex string through the panic's message.
pub fn fuzz_smoke(target: Target, seed: u64, iterations: u64) {
    smoke_with(&format!("{target:?}"), &target.corpus(), |data| target.run(data), seed, iterations);
}

/// As [`fuzz_smoke`], for a target of a crate above this one.
///
/// # Panics
/// Likewise.
pub fn smoke_with(name: &str, corpus: &[Vec<u8>], run: impl Fn(&[u8]), seed: u64, iterations: u64) {
    corpus.iter().for_each(|input| run(input));
    let mut rng = Rng::new(seed);
    for iteration in 0..iterations {
        let mut data = match corpus.get(rng.below(corpus.len() as u64 + 1) as usize) {
            Some(input) => input.clone(),
            None => garbage(&mut rng),
        };
        for _ in 0..rng.below(6) {
            mutate(&mut data, &mut rng);
        }
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(&data))) {
            let hex: String = data.iter().map(|byte| format!("{byte:02x}")).collect();
            let why = panic.downcast_ref::<String>().cloned();
            let why = why.or_else(|| panic.downcast_ref::<&str>().map(|why| (*why).to_owned()));
            match why {
                Some(why) => panic!("{name}, SEED={seed}, iteration {iteration}, input {hex}: {why}"),
                None => resume_unwind(panic),
            }
        }
    }
}

fn garbage(rng: &mut Rng) -> Vec<u8> {
    (0..rng.below(400)).map(|_| rng.bits() as u8).collect()
}

/// One change of the kinds that find most: bits, edges, lengths, pieces moved.
fn mutate(data: &mut Vec<u8>, rng: &mut Rng) {
    let at = rng.below(data.len() as u64) as usize;
    match rng.below(7) {
        _ if data.is_empty() => data.push(rng.bits() as u8),
        0 => data[at] ^= 1 << rng.below(8),
        1 => data[at] = [0, 1, 0x7f, 0x80, 0xff][rng.below(5) as usize],
        2 => data[at] = rng.bits() as u8,
        3 => data.truncate(at),
        4 => data.insert(at, rng.bits() as u8),
        5 => {
            data.remove(at);
        }
        _ => {
            let piece: Vec<u8> = data[at..data.len().min(at + 16)].to_vec();
            let to = rng.below(data.len() as u64) as usize;
            data.splice(to..to, piece);
        }
    }
}
