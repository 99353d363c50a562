//! Every byte that should come does, at its place; no other byte changes.

use ropeway::{BlockId, Op, Plan, RawCopy, Rect, Rights, RouteOptions, Slice, Strided, Submit};

use super::ground::{Ground, Pair, ids};
use super::owner::Layout;
use crate::oracle::Image;
use crate::watchdog::WAIT;

const PAGE: u64 = 4096;
const BYTES: u64 = 256 * PAGE;

/// One contiguous piece: offset on the importer's side, on the owner's, length.
type Piece = (u64, u64, u64);

fn rights(op: Op) -> Rights {
    match op {
        Op::Read => Rights::Read,
        Op::Write => Rights::Write,
    }
}

/// Submits, waits, forbids the quiet pages, and compares both regions with flat images.
fn moves(pair: &Pair, op: Op, pieces: &[Piece], plan: impl FnOnce() -> Plan) {
    let (mut ours, mut theirs) = (Image::fill(&pair.importer.region, 1), Image::fill(&pair.owner.region, 2));
    let plan = plan();
    assert_eq!(plan.bytes(), pieces.iter().map(|(_, _, len)| len).sum::<u64>(), "{op}: bytes of the plan");
    let report = plan.submit(Submit::default()).expect("submitted").wait(WAIT).expect("ends").expect("moved");
    assert_eq!(report.bytes, plan.bytes());
    pair.expect_quiet();
    for &(local, remote, len) in pieces {
        match op {
            Op::Read => ours.copy(local, &theirs, remote, len),
            Op::Write => theirs.copy(remote, &ours, local, len),
        }
    }
    ours.check(&pair.importer.region, &format!("importer after {op}"));
    theirs.check(&pair.owner.region, &format!("owner after {op}"));
}

/// Both ways over caches that the two functions publish.
fn both_ways(
    ground: &Ground,
    layout: impl Fn(bool) -> Layout,
    options: &RouteOptions,
    local: &[&[BlockId]],
    remote: &[&[BlockId]],
    pieces: &[Piece],
) {
    for op in [Op::Read, Op::Write] {
        let pair = ground.pair(BYTES);
        let owners = pair.owner.publish("kv", &layout(true)).expect("published");
        let importers = pair.importer.publish("kv", &layout(false));
        let (lease, grant) = pair.lease(&owners, remote, rights(op));
        let route = pair.peer.route_with(&importers, "kv", options.clone(), WAIT).expect("route");
        let route = route.wait().expect("routed");
        assert_eq!(route.transport(), ground.kind);
        moves(&pair, op, pieces, || route.plan(op, &grant, None, local, remote).expect("planned"));
        drop(grant);
        let freed = lease.wait_free(WAIT).expect("released");
        assert_eq!(freed.outcome, ropeway::Outcome::Done);
        drop((route, owners, importers, lease));
        pair.close();
    }
}

/// Ids that merge in places and jump in others: forwards, backwards, single.
fn scattered() -> (Vec<BlockId>, Vec<BlockId>) {
    let local = [9, 10, 11, 3, 0, 30, 31, 17, 16];
    let remote = [20, 21, 22, 40, 41, 2, 3, 8, 7];
    (local.map(BlockId).to_vec(), remote.map(BlockId).to_vec())
}

/// Blocks without gaps, in two parts.
pub fn dense_blocks_arrive_whole_and_alone(ground: &Ground) {
    let layout = |_| {
        let layout = Layout::of(Strided::dense(PAGE, PAGE, 64));
        layout.part("v", Strided::dense(100 * PAGE, 2 * PAGE, 64))
    };
    let (local, remote) = scattered();
    let mut pieces = Vec::new();
    for (ours, theirs) in local.iter().zip(&remote) {
        let (ours, theirs) = (u64::from(ours.0), u64::from(theirs.0));
        pieces.push((PAGE + ours * PAGE, PAGE + theirs * PAGE, PAGE));
        pieces.push((100 * PAGE + ours * 2 * PAGE, 100 * PAGE + theirs * 2 * PAGE, 2 * PAGE));
    }
    both_ways(ground, layout, &RouteOptions::default(), &[&local], &[&remote], &pieces);
}

/// Blocks with gaps between them, of odd sizes, whose strides differ between the two sides.
pub fn padded_blocks_arrive_without_their_padding(ground: &Ground) {
    const BLOCK: u64 = 1000;
    let ours = Strided { offset: 17, stride: 1024, block_bytes: BLOCK, blocks: 64 };
    let theirs = Strided { offset: 4000, stride: 3001, block_bytes: BLOCK, blocks: 64 };
    let layout = |owner| Layout::of(if owner { theirs } else { ours });
    let (local, remote) = scattered();
    let at = |strided: Strided, id: BlockId| strided.offset + u64::from(id.0) * strided.stride;
    let pieces: Vec<Piece> =
        local.iter().zip(&remote).map(|(a, b)| (at(ours, *a), at(theirs, *b), BLOCK)).collect();
    both_ways(ground, layout, &RouteOptions::default(), &[&local], &[&remote], &pieces);
}

/// A head slice: rows of a block on one side, a block in one piece on the other.
pub fn slices_of_rows_arrive_in_their_places(ground: &Ground) {
    let rows = Rect { offset: 512, rows: 16, row_bytes: 128, row_stride: 256 };
    let whole = Rect { offset: 0, rows: 1, row_bytes: 2048, row_stride: 2048 };
    let layout = |owner| Layout::of(Strided::dense(0, if owner { 2 * PAGE } else { PAGE }, 64));
    let options = RouteOptions::default().slice(Slice::new("p", whole, rows));
    let (local, remote) = scattered();
    let mut pieces = Vec::new();
    for (ours, theirs) in local.iter().zip(&remote) {
        for row in 0..16 {
            let ours = u64::from(ours.0) * PAGE + row * 128;
            let theirs = u64::from(theirs.0) * 2 * PAGE + 512 + row * 256;
            pieces.push((ours, theirs, 128));
        }
    }
    both_ways(ground, layout, &options, &[&local], &[&remote], &pieces);
}

/// One id stands for four kernel blocks here and for two there.
pub fn ids_of_several_kernel_blocks_arrive_in_order(ground: &Ground) {
    let layout = |owner| {
        Layout::default().group("g0", if owner { 2 } else { 4 }).part("p", Strided::dense(0, 512, 256))
    };
    let (local, remote) = ([5, 0].map(BlockId), [7, 3, 90, 91].map(BlockId));
    let kernel = |ids: &[BlockId], ratio: u64| -> Vec<u64> {
        ids.iter().flat_map(|id| (0..ratio).map(move |k| u64::from(id.0) * ratio + k)).collect()
    };
    let pieces: Vec<Piece> = kernel(&local, 4)
        .into_iter()
        .zip(kernel(&remote, 2))
        .map(|(ours, theirs)| (ours * 512, theirs * 512, 512))
        .collect();
    both_ways(ground, layout, &RouteOptions::default(), &[&local], &[&remote], &pieces);
}

/// Two groups with id lists of different lengths.
pub fn groups_have_their_own_ids(ground: &Ground) {
    let layout = |_| {
        let layout = Layout::default().group("full", 1).part("a", Strided::dense(0, PAGE, 32));
        layout.group("window", 1).part("b", Strided::dense(64 * PAGE, 512, 64))
    };
    let local = [ids(0..5), ids(40..42)];
    let remote = [ids(20..25), ids(7..9)];
    let mut pieces = Vec::new();
    for (ours, theirs) in (0..5).zip(20..25) {
        pieces.push((ours * PAGE, theirs * PAGE, PAGE));
    }
    for (ours, theirs) in (40..42).zip(7..9) {
        pieces.push((64 * PAGE + ours * 512, 64 * PAGE + theirs * 512, 512));
    }
    let (local, remote) = ([&local[0][..], &local[1]], [&remote[0][..], &remote[1]]);
    both_ways(ground, layout, &RouteOptions::default(), &local, &remote, &pieces);
}

/// Raw lists know no blocks: any offset, any length, one byte included, up to both ends of the regions.
pub fn raw_lists_arrive_at_any_offset_and_length(ground: &Ground) {
    let list =
        [(0, 5, 1), (3, 100, 4097), (5000, BYTES - 9, 9), (BYTES - 77, 6, 77), (70_000, 70_001, 100_003)];
    let list = list.map(|(local, remote, len)| RawCopy { local, remote, len });
    for op in [Op::Read, Op::Write] {
        let pair = ground.pair(BYTES);
        let owners = pair.owner.publish_raw("kv").expect("published");
        let importers = pair.importer.engine.raw_cache("kv", &pair.importer.region).expect("published");
        let (_lease, grant) = pair.lease(&owners, &[&[BlockId(0)]], rights(op));
        let route = pair.route(&importers);
        let pieces: Vec<Piece> = list.iter().map(|copy| (copy.local, copy.remote, copy.len)).collect();
        // What a write fills must not overlap: the list above does not, on either side.
        moves(&pair, op, &pieces, || {
            match op {
                Op::Read => route.read_raw(&grant, &list),
                Op::Write => route.write_raw(&grant, &list),
            }
            .expect("planned")
        });
        drop((grant, route, owners, importers));
        pair.close();
    }
}

/// Every second block of 4 KiB: none of them merges.
pub fn thousands_of_small_runs_arrive(ground: &Ground) {
    const BLOCKS: u32 = 4096;
    for op in [Op::Read, Op::Write] {
        let pair = ground.pair(u64::from(BLOCKS) * PAGE);
        let (owners, importers) = (pair.owner.dense(PAGE), pair.importer.dense(PAGE));
        let local: Vec<_> = (0..BLOCKS / 2).map(|i| BlockId(2 * i)).collect();
        let remote: Vec<_> = (0..BLOCKS / 2).map(|i| BlockId(BLOCKS - 1 - 2 * i)).collect();
        let (_lease, grant) = pair.lease(&owners, &[&remote], rights(op));
        let route = pair.route(&importers);
        let pair_of = |(a, b): (&BlockId, &BlockId)| (u64::from(a.0) * PAGE, u64::from(b.0) * PAGE, PAGE);
        let pieces: Vec<Piece> = local.iter().zip(&remote).map(pair_of).collect();
        moves(&pair, op, &pieces, || {
            let plan = route.plan(op, &grant, None, &[&local], &[&remote]).expect("planned");
            assert_eq!(plan.runs(), u64::from(BLOCKS / 2), "nothing merges");
            plan
        });
        drop((grant, route, owners, importers));
        pair.close();
    }
}

/// All blocks in order: one run of 24 MiB.
pub fn one_big_run_arrives(ground: &Ground) {
    const BIG: u64 = 24 << 20;
    for op in [Op::Read, Op::Write] {
        let pair = ground.pair(BIG);
        let (owners, importers) = (pair.owner.dense(PAGE), pair.importer.dense(PAGE));
        let all = ids(0..(BIG / PAGE) as u32);
        let (_lease, grant) = pair.lease(&owners, &[&all], rights(op));
        let route = pair.route(&importers);
        moves(&pair, op, &[(0, 0, BIG)], || {
            let plan = route.plan(op, &grant, None, &[&all], &[&all]).expect("planned");
            assert_eq!(plan.runs(), 1, "everything merges");
            plan
        });
        drop((grant, route, owners, importers));
        pair.close();
    }
}

/// Layer by layer.
pub fn a_range_of_parts_leaves_the_others_alone(ground: &Ground) {
    const LAYERS: u64 = 8;
    for op in [Op::Read, Op::Write] {
        let pair = ground.pair(BYTES);
        let add = |layout: Layout, layer: u64| {
            layout.part(format!("layers.{layer}"), Strided::dense(layer * 32 * PAGE, PAGE, 32))
        };
        let layout = (0..LAYERS).fold(Layout::default().group("g0", 1), add);
        let owners = pair.owner.publish("kv", &layout).expect("published");
        let importers = pair.importer.publish("kv", &layout);
        let (local, remote) = (ids(4..9), ids(20..25));
        let (_lease, grant) = pair.lease(&owners, &[&remote], rights(op));
        let route = pair.route(&importers);
        for layer in [3, 0, 7] {
            let at = layer * 32 * PAGE;
            let piece = (at + 4 * PAGE, at + 20 * PAGE, 5 * PAGE);
            let range = Some(layer as usize..layer as usize + 1);
            moves(&pair, op, &[piece], || {
                route.plan(op, &grant, range, &[&local], &[&remote]).expect("planned")
            });
        }
        drop((grant, route, owners, importers));
        pair.close();
    }
}
