//! Layouts that fit their regions, and those that do not.

use super::*;
use crate::ErrorKind;

#[test]
fn a_part_that_leaves_its_region_is_refused() {
    let region = RegionId { slot: 3, generation: 1 };
    let build = |blocks| {
        CacheLayout::builder("kv")
            .group("g", 1)
            .part("k", region, Strided::dense(10, 100, blocks))
            .build(|_| Some(1_010), &Limits::default())
    };
    assert!(build(10).is_ok());
    assert_eq!(build(11).unwrap_err().kind(), ErrorKind::OutOfBounds);
}
