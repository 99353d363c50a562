//! Bookkeeping in instructions: run under callgrind, which counts inside the `measured_` functions only.
//!
//! `cargo xtask test --only counts` does it and divides by the units that this program prints. Instruction counts do not
//! depend on what else the machine does, so a change in one is a change in the code.
#![expect(clippy::print_stdout, reason = "a program's output is its purpose")]

use std::hint::black_box;

use bytes::BytesMut;
use ropeway_core::plan::PlanRequest;
use ropeway_core::{BlockId, CacheLayout, Cursor, Limits, Op, RegionId, Run, Runs};
use ropeway_core::{CopyPlan, Result, RouteMap, RouteParts, Scope, Strided};

const PARTS: u32 = 54;
const BLOCKS: u32 = 16_384;
const BLOCK_BYTES: u64 = 16_384;

fn main() -> Result<()> {
    let limits = Limits::default();
    let route = route(&limits)?;
    let (ours, theirs) = (scattered(3), scattered(7));
    let plan = || route.plan(Op::Read, &[&ours], &[&theirs], &Scope::default());
    match std::env::args().nth(1).as_deref() {
        Some("plan") => {
            black_box(measured_plan(&route, &ours, &theirs)?);
            println!("{BLOCKS} id pair, planned");
        }
        Some("runs") => {
            let plan = plan()?;
            measured_runs(&plan);
            println!("{} merged run, expanded", plan.total_runs());
        }
        Some("request") => {
            measured_request(&plan()?, &limits)?;
            println!("{BLOCKS} id pair, encoded and decoded");
        }
        _ => println!("workloads: plan, runs, request"),
    }
    Ok(())
}

#[inline(never)]
fn measured_plan(route: &RouteMap, ours: &[BlockId], theirs: &[BlockId]) -> Result<CopyPlan> {
    route.plan(Op::Read, &[ours], &[theirs], &Scope::default())
}

#[inline(never)]
fn measured_runs(plan: &CopyPlan) {
    let mut at = Cursor::default();
    let mut runs = [Run::default(); 256];
    while plan.fill(&mut at, &mut runs, u64::MAX) > 0 {
        black_box(&runs);
    }
}

#[inline(never)]
fn measured_request(plan: &CopyPlan, limits: &Limits) -> Result<()> {
    let mut bytes = BytesMut::new();
    plan.encode(&mut bytes);
    black_box(PlanRequest::decode(&bytes, limits)?);
    Ok(())
}

fn route(limits: &Limits) -> Result<RouteMap> {
    let region = RegionId { slot: 0, generation: 1 };
    let part_bytes = u64::from(BLOCKS) * BLOCK_BYTES;
    let empty = CacheLayout::builder("kv").group("full", 1);
    let spec = (0..PARTS).fold(empty, |spec, part| {
        let at = u64::from(part) * part_bytes;
        spec.part(format!("layers.{part}.kv"), region, Strided::dense(at, BLOCK_BYTES, BLOCKS))
    });
    let layout = spec.build(|_| Some(u64::from(PARTS) * part_bytes), limits)?;
    RouteMap::new(&layout, &layout, &[], RouteParts::Exact, limits)
}

/// All ids, in an order in which no two neighbours follow each other.
fn scattered(step: u32) -> Vec<BlockId> {
    let step = BLOCKS / 2 + step;
    (0..BLOCKS).map(|at| BlockId(at.wrapping_mul(step) % BLOCKS)).collect()
}
