//! Who is read from: what a rank needs, who has it, and which of them it is.

use std::collections::BTreeSet;

use super::heads::{self, HeadRun};
use super::stripes::Stripe;
use super::topology::{Rank, Side};
use crate::facts::Mismatch;
use crate::layout::{Context, PlaneClass};

/// Something that one of several ranks must give.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Need {
    /// Which of our planes, by class.
    pub(super) class: usize,
    /// The layers of it that the stage has.
    pub(super) layers: Vec<u32>,
    /// The peer's class of them.
    pub(super) theirs: usize,
    /// The heads.
    pub(super) run: HeadRun,
    /// Who has it: ascending, at least one.
    pub(super) held_by: Vec<Rank>,
}

/// What rank `rank` of `ours` needs of `theirs`.
pub(super) fn needs(ours: &Side, rank: Rank, theirs: &Side) -> Result<Vec<Need>, Mismatch> {
    let stage = &ours.stages[rank.pp as usize];
    let mut needs = Vec::new();
    for (index, class) in stage.planes.iter().enumerate() {
        let mut missing: Vec<u32> = class.layers.clone();
        for (pp, peer) in theirs.stages.iter().enumerate() {
            for (at, other) in peer.planes.iter().enumerate() {
                if other.shape.plane != class.shape.plane {
                    continue;
                }
                let common = |layer: &u32| other.layers.binary_search(layer).is_ok();
                let layers: Vec<u32> = missing.iter().copied().filter(common).collect();
                missing.retain(|layer| !common(layer));
                if !layers.is_empty() {
                    let group = &stage.groups[class.group].info;
                    let context = Stripe::of(rank, &ours.topology, group);
                    let stage = Stage { pp: pp as u32, class: at };
                    needs.extend(of_class(ours, (index, class), &layers, rank, context, theirs, stage)?);
                }
            }
        }
        // A draft model may be on one side only.
        if let Some(layer) = missing.iter().find(|layer| **layer < ours.layers) {
            let field = format!("layers.{layer}.{}", class.shape.plane);
            return Err(Mismatch::new(field, "there", "missing").advise("both must cache the same tensors"));
        }
    }
    Ok(needs)
}

/// A class of a stage of the peer.
#[derive(Clone, Copy)]
struct Stage {
    pp: u32,
    class: usize,
}

fn of_class(
    ours: &Side,
    (index, class): (usize, &PlaneClass),
    layers: &[u32],
    rank: Rank,
    context: Option<Stripe>,
    theirs: &Side,
    stage: Stage,
) -> Result<Vec<Need>, Mismatch> {
    let topology = &theirs.topology;
    let peer = &theirs.stages[stage.pp as usize];
    let info = &peer.groups[peer.planes[stage.class].group].info;
    let cut = || {
        let field = format!("tokens of a stripe of group {}", info.name);
        Mismatch::new(field, ours.topology.stripe_tokens, topology.stripe_tokens)
            .advise("stripes of context parallelism hold whole slots, and blocks whole stripes")
    };
    let context = context.ok_or_else(cut)?;
    let all: Vec<Rank> = topology.ranks().filter(|peer| peer.pp == stage.pp).collect();
    // Ranks that hold the same tokens; all of them where each holds every token.
    let mut circles: Vec<(Stripe, Vec<Rank>)> = Vec::new();
    for peer in all {
        let stripe = Stripe::of(peer, topology, info).ok_or_else(cut)?;
        match circles.iter_mut().find(|(known, _)| *known == stripe) {
            Some((_, ranks)) => ranks.push(peer),
            None => circles.push((stripe, vec![peer])),
        }
    }
    let whole = info.context == Context::Replicated || info.is_state() || topology.contexts() == 1;
    debug_assert!(!whole || circles.len() == 1);
    let covers =
        heads::cover(&class.shape.split, class.shape.heads.count, rank.shard(&ours.topology), topology.tp);
    let mut needs = Vec::new();
    for (_, ranks) in circles.iter().filter(|(stripe, _)| stripe.meets(&context)) {
        for held in &covers {
            let has = |peer: &&Rank| held.by.contains(&peer.tp);
            let held_by: Vec<Rank> = ranks.iter().filter(has).copied().collect();
            if held_by.is_empty() {
                let field = format!("heads of {} under decode context parallelism", class.shape.plane);
                return Err(Mismatch::new(
                    field,
                    format!("{:?}", class.shape.split),
                    format!("{topology:?}"),
                ));
            }
            let (layers, run) = (layers.to_vec(), held.run);
            needs.push(Need { class: index, layers, theirs: stage.class, run, held_by });
        }
    }
    Ok(needs)
}

/// How a request spreads its choices.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    /// Our rank's number in its stage.
    pub(super) rank: u32,
    /// How many there are.
    pub(super) of: u32,
    /// The peer's rank of the same place, when both sides are spread alike.
    pub(super) twin: Option<(u32, u32)>,
    /// Which turn of the request's key.
    pub(super) turn: u32,
}

impl Turn {
    pub(super) fn new(ours: &Side, rank: Rank, theirs: &Side, turn: u32) -> Self {
        let (a, b) = (&ours.topology, &theirs.topology);
        let alike = (a.tp, a.pcp, a.dcp) == (b.tp, b.pcp, b.dcp);
        Self {
            rank: rank.pcp * a.tp + rank.tp,
            of: a.stage_ranks(),
            twin: alike.then_some((rank.pcp, rank.tp)),
            turn,
        }
    }

    /// One rank for each need.
    pub(super) fn choose(&self, needs: &[Need]) -> Vec<Rank> {
        let fixed: BTreeSet<Rank> =
            needs.iter().filter(|need| need.held_by.len() == 1).map(|need| need.held_by[0]).collect();
        needs.iter().map(|need| self.one(&need.held_by, &fixed)).collect()
    }

    fn one(&self, held_by: &[Rank], fixed: &BTreeSet<Rank>) -> Rank {
        if let Some(twin) = held_by.iter().find(|peer| Some((peer.pcp, peer.tp)) == self.twin) {
            return *twin;
        }
        // A rank that is read from anyway is as good, and costs no further claim.
        let known: Vec<Rank> = held_by.iter().copied().filter(|peer| fixed.contains(peer)).collect();
        let among = if known.is_empty() { held_by } else { &known };
        let spread = u64::from(self.rank) * among.len() as u64 / u64::from(self.of);
        among[((u64::from(self.turn) + spread) % among.len() as u64) as usize]
    }
}
