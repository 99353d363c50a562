//! `model`: how long a prompt takes between NPUs, predicted from published block-size curves. Nothing is measured.
//!
//! The copies are those of the engine's own planning over the model's layout, and the pieces are cut by the very table
//! that the engine's links use. Each copy is taken to cost what a block of its size cost in the published runs.

use std::collections::BTreeMap;

use ropeway_ascend::curves::{Cut, Hosts, Link, Way};
use ropeway_ascend::node::Chip;
use ropeway_core::{
    BlockId, CacheLayout, Cursor, Limits, Op, RegionId, RouteMap, RouteParts, Run, Runs, Scope, Strided,
};
use serde::Serialize;

use crate::Failure;
use crate::cli::Model;
use crate::model::{self, BLOCK_TOKENS};
use crate::output;
use crate::work::{self, Group};
use crate::workload::{self, Draw};

/// One link and direction; the names are those of the JSON line.
#[derive(Serialize)]
struct Figures {
    command: &'static str,
    /// Always true: no NPU was near.
    predicted: bool,
    model: String,
    tokens: u32,
    fragmentation: f64,
    chip: &'static str,
    hosts: u32,
    link: &'static str,
    direction: &'static str,
    bytes: u64,
    /// Copies, one for each part and block.
    descriptors: u64,
    /// What is handed to the link: merged, then cut where the curve dips.
    pieces: u64,
    /// One descriptor a block.
    ms_unmerged: f64,
    ms: f64,
    times_faster: f64,
    /// When the engine takes this link for such a pair.
    chosen: &'static str,
}

/// Copies by length: how many of each.
type Lengths = BTreeMap<u64, u64>;

/// What a prompt is moved in.
struct Copies {
    bytes: u64,
    blocks: Lengths,
    runs: Lengths,
}

pub(crate) fn run(options: &Model) -> Result<(), Failure> {
    let shape = model::find(&options.model)?;
    let figures = predict(options, shape.name)?;
    if options.json {
        return Ok(figures.iter().try_for_each(output::json_line)?);
    }
    let pairs = pairs(&figures, options.direction.len());
    let header = header(options);
    if options.markdown {
        return Ok(output::markdown(&header, &pairs)?);
    }
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let title = format!(
        "PREDICTED, nothing was measured: {} tokens of {}, {}, fragmentation {:.2}",
        output::grouped(options.tokens.into()),
        shape.name,
        output::bytes(shape.prompt_bytes(options.tokens)),
        options.fragmentation
    );
    Ok(output::table(&title, &header, &pairs)?)
}

/// Every link that has a figure for a direction, in the order of the source.
fn predict(options: &Model, model: &str) -> Result<Vec<Figures>, Failure> {
    let copies = Copies::of(model, options.tokens, options.fragmentation, options.seed)?;
    let links = Link::published().flat_map(|link| options.direction.iter().map(move |&to| (link, to)));
    Ok(links
        .filter_map(|(link, direction)| {
            let curve = link.curve(direction)?;
            let cut = Cut::of(&curve);
            let sum = |lengths: &Lengths, seconds: &dyn Fn(u64) -> f64| -> f64 {
                lengths.iter().map(|(&len, &count)| count as f64 * seconds(len)).sum()
            };
            let unmerged = sum(&copies.blocks, &|len| curve.seconds(len)) * 1e3;
            let merged = sum(&copies.runs, &|len| curve.seconds_cut(&cut, len)) * 1e3;
            Some(Figures {
                command: "model",
                predicted: true,
                model: model.to_owned(),
                tokens: options.tokens,
                fragmentation: options.fragmentation,
                chip: link.chip.name(),
                hosts: hosts(link.hosts),
                link: link.way.name(),
                direction: direction.name(),
                bytes: copies.bytes,
                descriptors: copies.blocks.values().sum(),
                pieces: copies.runs.iter().map(|(&len, &count)| cut.pieces(len) * count).sum(),
                ms_unmerged: unmerged,
                ms: merged,
                times_faster: unmerged / merged,
                chosen: chosen(link),
            })
        })
        .collect())
}

impl Copies {
    /// Plans the prompt as the engine does, in pools that hold more than it, so that parts do not touch.
    fn of(model: &str, tokens: u32, fragmentation: f64, seed: u64) -> Result<Self, Failure> {
        let blocks = tokens.div_ceil(BLOCK_TOKENS);
        let (pool, groups) = work::layout(model, blocks + 1, 1)?;
        let mut draw = Draw::new(seed);
        let mut ids = || -> Vec<Vec<BlockId>> {
            groups.iter().map(|group| used(group, blocks, fragmentation, &mut draw)).collect()
        };
        let (local, remote) = (ids(), ids());
        let limits = Limits::default();
        let region = RegionId { slot: 0, generation: 1 };
        let layout = layout(&groups, region, pool, &limits)?;
        let route = RouteMap::new(&layout, &layout, &[], RouteParts::Exact, &limits)?;
        let local: Vec<&[BlockId]> = local.iter().map(Vec::as_slice).collect();
        let remote: Vec<&[BlockId]> = remote.iter().map(Vec::as_slice).collect();
        let plan = route.plan(Op::Read, &local, &remote, &Scope::default())?;
        let mut blocks = Lengths::new();
        for (group, ids) in groups.iter().zip(&local) {
            for part in &group.parts {
                *blocks.entry(part.block_bytes).or_default() += ids.len() as u64;
            }
        }
        debug_assert_eq!(blocks.values().sum::<u64>(), plan.descriptors());
        Ok(Self { bytes: plan.total_bytes(), blocks, runs: lengths(&plan) })
    }
}

/// The ids of a prompt: block 0 of a pool is nobody's, as in a block manager that keeps it for padding.
fn used(group: &Group, blocks: u32, fragmentation: f64, draw: &mut Draw) -> Vec<BlockId> {
    let there = group.parts.first().map_or(0, |part| part.blocks);
    let (first, count) = if there > blocks { (1, blocks) } else { (0, there) };
    workload::block_ids(count, fragmentation, draw).into_iter().map(|id| BlockId(first + id)).collect()
}

fn layout(groups: &[Group], region: RegionId, pool: u64, limits: &Limits) -> Result<CacheLayout, Failure> {
    let mut builder = CacheLayout::builder("kv");
    for group in groups {
        builder = builder.group(group.name, 1);
        for part in &group.parts {
            let strided = Strided::dense(part.offset, part.block_bytes, part.blocks);
            builder = builder.part(part.name.as_str(), region, strided);
        }
    }
    Ok(builder.build(|_| Some(pool), limits)?)
}

/// The plan's merged runs, by length.
fn lengths(plan: &impl Runs) -> Lengths {
    let mut lengths = Lengths::new();
    let (mut at, mut runs) = (Cursor::default(), [Run::default(); 256]);
    loop {
        match plan.fill(&mut at, &mut runs, u64::MAX) {
            0 => return lengths,
            filled => {
                for run in &runs[..filled] {
                    *lengths.entry(run.len.into()).or_default() += 1;
                }
            }
        }
    }
}

/// When the engine takes a link between two NPUs of this kind.
fn chosen(link: Link) -> &'static str {
    match (link.chip, link.hosts, link.way) {
        (_, _, Way::FabricDevice | Way::FabricHost) => "never: fabric memory is off",
        (_, Hosts::One, Way::HccsClientServer) => "CANN 9.1 and later",
        (_, Hosts::One, Way::HccsCommunicator) => "before CANN 9.1",
        (_, Hosts::One, Way::RoceClientServer | Way::RoceCommunicator) => "HCCL_INTRA_ROCE_ENABLE=1",
        (_, Hosts::Two, Way::HccsCommunicator) => "one super-pod, before CANN 9.1",
        (_, Hosts::Two, Way::HccsClientServer) => "one super-pod, CANN 9.1 and later",
        (Chip::A3, Hosts::Two, Way::RoceClientServer) => "two super-pods, CANN 9.1 and later",
        (Chip::A3, Hosts::Two, Way::RoceCommunicator) => "two super-pods, before CANN 9.1",
        (_, Hosts::Two, Way::RoceClientServer) => "CANN 9.1 and later",
        (_, Hosts::Two, Way::RoceCommunicator) => "before CANN 9.1",
    }
}

fn hosts(hosts: Hosts) -> u32 {
    match hosts {
        Hosts::One => 1,
        Hosts::Two => 2,
    }
}

fn header(options: &Model) -> Vec<String> {
    let mut header: Vec<String> = ["NPUs", "link"].map(str::to_owned).to_vec();
    for direction in &options.direction {
        header.push(format!("{direction}: a descriptor a block, ms"));
        header.push("merged, ms".to_owned());
        header.push("times faster".to_owned());
        header.push("descriptors".to_owned());
    }
    header.push("the engine takes it".to_owned());
    header
}

/// One row a link: the directions side by side.
fn pairs(figures: &[Figures], directions: usize) -> Vec<Vec<String>> {
    let same = |a: &Figures, b: &Figures| (a.chip, a.hosts, a.link) == (b.chip, b.hosts, b.link);
    figures
        .chunk_by(same)
        .filter(|link| link.len() == directions)
        .map(|link| {
            let first = &link[0];
            let hosts = if first.hosts == 1 { "one host" } else { "two hosts" };
            let mut row = vec![format!("{}, {hosts}", first.chip), first.link.to_owned()];
            for of in link {
                row.push(format!("{:.2}", of.ms_unmerged));
                row.push(format!("{:.2}", of.ms));
                row.push(format!("{:.2}", of.times_faster));
                row.push(format!("{} → {}", output::grouped(of.descriptors), output::grouped(of.pieces)));
            }
            row.push(first.chosen.to_owned());
            row
        })
        .collect()
}

#[cfg(test)]
mod tests;
