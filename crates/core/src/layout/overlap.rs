//! Which parts of a layout share bytes.
//!
//! Parts may: with hybrid attention, groups take blocks from one pool of memory, and the block manager hands an id to
//! one group only. So overlap is no error of the layout, but a plan that writes must prove that no byte is written
//! twice. Here the question is answered once per layout, so that the proof costs plans nothing in the usual case.

use super::Part;

/// Kernel block `i` of some part of group `a` shares bytes with block `i + shift` of some part of group `b`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Relation {
    pub(crate) a: u16,
    pub(crate) b: u16,
    pub(crate) shift: i64,
}

/// What parts share.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Overlaps {
    /// Between parts of equal stride, each relation once.
    pub(crate) relations: Vec<Relation>,
    /// Parts of unequal strides lie across each other: only an expansion can tell.
    pub(crate) odd: bool,
}

/// More kinds of overlap than this are left to the expansion.
const RELATIONS_MAX: usize = 64;
/// More pairs of parts than this are not looked at one by one.
const PAIRS_MAX: usize = 1 << 22;

pub(super) fn find(parts: &[Part]) -> Overlaps {
    let end = |part: &Part| part.strided.end().unwrap_or(u64::MAX);
    let mut order: Vec<&Part> = parts.iter().collect();
    order.sort_by_key(|part| (part.region, part.strided.offset));

    let mut found = Overlaps::default();
    let mut pairs = 0;
    for (index, &first) in order.iter().enumerate() {
        let reach = end(first);
        let near = order[index + 1..]
            .iter()
            .take_while(|other| other.region == first.region && other.strided.offset < reach);
        for other in near {
            pairs += 1;
            if pairs > PAIRS_MAX || found.relations.len() > RELATIONS_MAX {
                return Overlaps { relations: Vec::new(), odd: true };
            }
            relate(first, other, &mut found);
        }
    }
    found
}

/// Blocks `i` of `a` and `j` of `b`, at equal stride `s`, share a byte where `-b.bytes < d + (j - i) s < a.bytes`,
/// with `d` the distance of the first blocks.
fn relate(a: &Part, b: &Part, found: &mut Overlaps) {
    if a.strided.stride != b.strided.stride {
        found.odd = true;
        return;
    }
    let stride = i128::from(a.strided.stride);
    let distance = i128::from(b.strided.offset) - i128::from(a.strided.offset);
    let low = (-i128::from(b.strided.block_bytes) - distance).div_euclid(stride) + 1;
    let high = (i128::from(a.strided.block_bytes) - distance - 1).div_euclid(stride);
    // Only shifts that both parts have blocks for.
    let low = low.max(-(i128::from(a.strided.blocks) - 1));
    let high = high.min(i128::from(b.strided.blocks) - 1);
    for shift in low..=high {
        let relation = Relation { a: a.group, b: b.group, shift: shift as i64 };
        if !found.relations.contains(&relation) {
            found.relations.push(relation);
        }
    }
}
