//! Layouts that fit their regions, and those that do not.

use proptest::prelude::*;

use super::overlap::Relation;
use super::*;
use crate::ErrorKind;

const REGION: RegionId = RegionId { slot: 3, generation: 1 };
const REGION_BYTES: u64 = 10_000;

fn region_bytes(region: RegionId) -> Option<u64> {
    (region.generation == 1).then_some(REGION_BYTES)
}

fn kv() -> LayoutSpec {
    CacheLayout::builder("kv")
        .group("full", 1)
        .part("layers.0.k", REGION, Strided::dense(0, 64, 32))
        .group("window", 4)
        .part("layers.1.k", REGION, Strided::dense(2_048, 64, 30))
        .part("layers.2.k", REGION, Strided::dense(4_096, 64, 32))
}

fn build(spec: LayoutSpec) -> Result<CacheLayout> {
    spec.build(region_bytes, &Limits::default())
}

#[test]
fn a_group_has_as_many_ids_as_its_shortest_part_holds() {
    let layout = build(kv()).unwrap();
    assert_eq!((layout.ids(0), layout.ids(1), layout.ids(2)), (32, 7, 0));
    assert_eq!((layout.bytes_per_id(0), layout.bytes_per_id(1)), (64, 2 * 4 * 64));
    assert_eq!(layout.regions()[..], [REGION]);
}

#[test]
fn a_part_may_end_with_its_region_but_not_a_byte_later() {
    let at = |offset| {
        let strided = Strided { offset, stride: 100, block_bytes: 60, blocks: 10 };
        build(CacheLayout::builder("kv").group("g", 1).part("k", REGION, strided))
    };
    let last = REGION_BYTES - (9 * 100 + 60);
    assert!(at(last).is_ok());
    let error = at(last + 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfBounds);
    assert_eq!(
        error.to_string(),
        "layout: part k: its 10 blocks end at byte 10001 of region 3.1, which has 10000; check offset and stride"
    );
    assert_eq!(at(u64::MAX - 3).unwrap_err().kind(), ErrorKind::OutOfBounds);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let with = |change: &dyn Fn(&mut LayoutSpec)| {
        let mut spec = kv();
        change(&mut spec);
        build(spec).unwrap_err().kind()
    };
    use ErrorKind::{ApiMisuse, Full, OutOfBounds};
    assert_eq!(with(&|spec| spec.name.clear()), ApiMisuse);
    assert_eq!(with(&|spec| spec.parts[0].name = "x".repeat(256)), ApiMisuse);
    assert_eq!(with(&|spec| spec.parts[0].name = "layers.2.k".into()), ApiMisuse);
    assert_eq!(with(&|spec| spec.groups[1].name = "full".into()), ApiMisuse);
    assert_eq!(with(&|spec| spec.groups[1].ratio = 0), ApiMisuse);
    assert_eq!(with(&|spec| spec.groups[1].ratio = 65_537), ApiMisuse);
    assert_eq!(with(&|spec| spec.groups[1].ratio = 31), ApiMisuse);
    assert_eq!(with(&|spec| spec.groups.clear()), ApiMisuse);
    assert_eq!(with(&|spec| spec.parts.clear()), ApiMisuse);
    assert_eq!(with(&|spec| spec.parts.truncate(1)), ApiMisuse);
    assert_eq!(with(&|spec| spec.parts[0].group = 2), ApiMisuse);
    assert_eq!(with(&|spec| spec.parts[0].region.generation = 2), ApiMisuse);
    assert_eq!(with(&|spec| spec.parts[0].strided.block_bytes = 0), ApiMisuse);
    assert_eq!(with(&|spec| spec.parts[0].strided.stride = 63), ApiMisuse);
    assert_eq!(with(&|spec| spec.parts[0].strided.blocks = 0), ApiMisuse);
    assert_eq!(with(&|spec| spec.parts[0].strided.stride = u64::MAX), OutOfBounds);
    assert_eq!(with(&|spec| spec.raw = true), ApiMisuse);
    let more = |spec: &mut LayoutSpec| {
        spec.groups.extend((0..255).map(|index| Group { name: index.to_string(), ratio: 1 }));
    };
    assert_eq!(with(&more), Full);
    let few = Limits::default().with_parts_per_cache(2);
    assert_eq!(kv().build(region_bytes, &few).unwrap_err().kind(), Full);
    let early = CacheLayout::builder("kv").part("k", REGION, Strided::dense(0, 8, 8)).group("g", 1);
    assert_eq!(build(early).unwrap_err().kind(), ApiMisuse);
}

#[test]
fn the_digest_is_of_the_shape_and_not_of_the_place() {
    let digest = |change: &dyn Fn(&mut LayoutSpec)| {
        let mut spec = kv();
        change(&mut spec);
        build(spec).unwrap().digest()
    };
    let same = build(kv()).unwrap().digest();
    assert_eq!(digest(&|spec| spec.parts[0].strided.offset = 5_000), same);
    assert_eq!(digest(&|spec| spec.parts[0].strided.stride = 100), same);
    assert_eq!(digest(&|spec| spec.parts[0].strided.blocks = 7), same);
    assert_eq!(digest(&|spec| spec.parts[0].region.slot = 9), same);
    assert_ne!(digest(&|spec| spec.name = "kw".into()), same);
    assert_ne!(digest(&|spec| spec.groups[1].name = "w".into()), same);
    assert_ne!(digest(&|spec| spec.groups[1].ratio = 2), same);
    assert_ne!(digest(&|spec| spec.parts[2].group = 0), same);
    assert_ne!(digest(&|spec| spec.parts[2].name = "layers.2.v".into()), same);
    assert_ne!(digest(&|spec| spec.parts[2].strided = Strided::dense(4_096, 32, 32)), same);
    assert_ne!(digest(&|spec| spec.parts.swap(1, 2)), same);
    let raw = |bytes| build(CacheLayout::whole_region("pool", REGION, bytes)).unwrap();
    assert_ne!(raw(64).digest(), raw(65).digest());
    // Both sides, and every build, must compute the same: a change here is a change of the protocol.
    assert_eq!(same.to_string(), "31abe6e9ca9ff97603b5c0182729bc43");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn overlaps_are_those_of_single_blocks(
        stride in 1..12_u64,
        a in (0..40_u64, 1..12_u64, 1..7_u32),
        b in (0..40_u64, 1..12_u64, 1..7_u32),
    ) {
        let strided = |(offset, block_bytes, blocks): (u64, u64, u32)| Strided {
            offset,
            stride,
            block_bytes: block_bytes.min(stride),
            blocks,
        };
        let (a, b) = (strided(a), strided(b));
        let spec = CacheLayout::builder("kv").group("a", 1).part("a", REGION, a).group("b", 1).part("b", REGION, b);
        let layout = build(spec).unwrap();
        let mut expected = Vec::new();
        for i in 0..i64::from(a.blocks) {
            for j in 0..i64::from(b.blocks) {
                let at = |strided: Strided, block: i64| strided.offset as i64 + block * stride as i64;
                let (mine, theirs) = (at(a, i), at(b, j));
                if mine < theirs + b.block_bytes as i64 && theirs < mine + a.block_bytes as i64 {
                    expected.push(j - i);
                }
            }
        }
        expected.sort_unstable();
        expected.dedup();
        let towards_b = |relation: &Relation| if relation.a == 0 { relation.shift } else { -relation.shift };
        let mut found: Vec<i64> = layout.overlaps().relations.iter().map(towards_b).collect();
        found.sort_unstable();
        prop_assert_eq!(found, expected);
        prop_assert!(!layout.overlaps().odd);
    }
}

#[test]
fn parts_of_unequal_stride_that_lie_across_each_other_are_left_to_the_expansion() {
    let spec = |offset| {
        CacheLayout::builder("kv").group("a", 1).part("a", REGION, Strided::dense(0, 10, 10)).part(
            "b",
            REGION,
            Strided { offset, stride: 12, block_bytes: 2, blocks: 10 },
        )
    };
    assert!(build(spec(99)).unwrap().overlaps().odd);
    assert!(!build(spec(100)).unwrap().overlaps().odd);
}
