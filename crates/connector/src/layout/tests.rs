use super::*;
use ropeway::Strided;

const MIB: u64 = 1 << 20;

/// [block, head, slot, content], in that order in memory.
fn kv(blocks: u64, heads: u64, slots: u64, content: u64) -> View {
    View {
        layer: 3,
        plane: "kv".into(),
        group: 0,
        storage: 0,
        offset: 0,
        element_bytes: 2,
        shape: vec![blocks, heads, slots, content],
        strides: vec![heads * slots * content, slots * content, content, 1],
        axes: vec![Axis::Block, Axis::Head, Axis::Slot, Axis::Content],
        heads: Heads::Split(vec![heads as u32]),
        format: Format::Rows,
    }
}

fn latent(layer: u32) -> View {
    View {
        layer,
        plane: "latent".into(),
        shape: vec![8, 1, 128, 64],
        strides: vec![8192, 8192, 64, 1],
        heads: Heads::Replicated,
        ..kv(8, 1, 128, 64)
    }
}

fn spec(groups: Vec<GroupInfo>, views: &[View]) -> Result<CacheSpec> {
    CacheSpec::new(groups, views, &[MIB], Shard::WHOLE)
}

fn full(slots: u32) -> Vec<GroupInfo> {
    vec![GroupInfo::full(0, slots)]
}

fn refusal(groups: Vec<GroupInfo>, views: &[View]) -> String {
    spec(groups, views).expect_err("the views are no cache").to_string()
}

#[test]
fn a_head_major_tensor_is_one_part_of_whole_blocks() {
    let spec = spec(full(32), &[View { offset: 64, ..kv(16, 2, 32, 8) }]).expect("sound");
    let [part] = spec.parts() else { panic!("{:?}", spec.parts()) };
    assert_eq!(part.name, "layers.3.kv");
    assert_eq!(part.strided, Strided { offset: 64, stride: 1024, block_bytes: 1024, blocks: 16 });
    assert_eq!(spec.groups()[0].kernel_slots, 32);
}

#[test]
fn rows_in_a_row_are_published_in_fine_blocks() {
    let spec = spec(full(128), &[latent(0)]).expect("sound");
    assert_eq!(spec.groups()[0].kernel_slots, FINE_SLOTS);
    assert_eq!(spec.parts()[0].strided, Strided::dense(0, 16 * 128, 64));
    let ids = spec.kernel_blocks(&[vec![2, 0]]).expect("ids of the cache");
    let expected: Vec<u32> = (16..24).chain(0..8).collect();
    assert_eq!(ids[0].iter().map(|id| id.0).collect::<Vec<_>>(), expected);
}

#[test]
fn padded_pages_keep_their_blocks() {
    let mut view = latent(0);
    view.strides[0] += 10;
    let spec = spec(full(128), &[view]).expect("sound");
    let strided = spec.parts()[0].strided;
    assert_eq!((strided.stride, strided.block_bytes, strided.blocks), (16_404, 16_384, 8));
}

#[test]
fn heads_outside_of_blocks_are_parts_by_their_number_in_the_model() {
    let mut view = kv(4, 2, 32, 8);
    view.strides = vec![256, 1024, 8, 1];
    view.heads = Heads::Split(vec![4]);
    let shard = Shard { rank: 1, of: 2 };
    let spec = CacheSpec::new(full(32), &[view], &[MIB], shard).expect("sound");
    let names: Vec<&str> = spec.parts().iter().map(|part| part.name.as_str()).collect();
    assert_eq!(names, ["layers.3.kv.h2", "layers.3.kv.h3"]);
    assert_eq!(spec.parts()[1].strided, Strided { offset: 2048, stride: 512, block_bytes: 512, blocks: 4 });
}

#[test]
fn a_pair_of_planes_in_one_tensor_is_two_parts() {
    let mut view = kv(4, 2, 32, 8);
    view.shape.insert(0, 2);
    view.strides.insert(0, 4 * 512);
    view.axes.insert(0, Axis::KeyValue);
    let spec = spec(full(32), &[view]).expect("sound");
    let parts: Vec<_> = spec.parts().iter().map(|part| (part.name.as_str(), part.strided.offset)).collect();
    assert_eq!(parts, [("layers.3.k", 0), ("layers.3.v", 4096)]);
}

#[test]
fn groups_over_each_other_have_equal_strides() {
    let state = GroupInfo { keeps: Keeps::State { spare: 0 }, ..GroupInfo::full(1, 1) };
    let conv = View {
        layer: 1,
        plane: "conv".into(),
        group: 1,
        shape: vec![8, 3, 100],
        strides: vec![8192, 100, 1],
        axes: vec![Axis::Block, Axis::Row, Axis::Head],
        heads: Heads::Split(vec![60, 20, 20]),
        ..latent(1)
    };
    let groups = vec![GroupInfo::full(0, 128), state];
    let spec = spec(groups, &[latent(0), conv]).expect("sound");
    assert_eq!(spec.groups()[0].kernel_slots, 128);
    let strides: Vec<u64> = spec.parts().iter().map(|part| part.strided.stride).collect();
    assert_eq!(strides, [16_384, 16_384]);
}

#[test]
fn null_blocks_of_windows_are_not_leased() {
    let window = GroupInfo { keeps: Keeps::Window { tokens: 128 }, ..GroupInfo::full(0, 32) };
    let spec = spec(vec![window], &[kv(16, 2, 32, 8)]).expect("sound");
    let ids = spec.kernel_blocks(&[vec![0, 0, 7, 3]]).expect("ids of the cache");
    assert_eq!(ids[0].iter().map(|id| id.0).collect::<Vec<_>>(), [7, 3]);
    assert!(spec.kernel_blocks(&[vec![16]]).is_err());
    assert!(spec.kernel_blocks(&[]).is_err());
}

#[test]
fn layers_that_are_alike_are_one_class_of_the_shape() {
    let views: Vec<View> =
        (0..5).map(|layer| View { offset: u64::from(layer) * 131_072, ..latent(layer) }).collect();
    let shape = spec(full(128), &views).expect("sound").shape();
    assert_eq!(shape.planes.len(), 1);
    assert_eq!(shape.planes[0].layers, [0, 1, 2, 3, 4]);
    assert!(shape.find(4, "latent").is_some() && shape.find(5, "latent").is_none());
    let text = serde_json::to_string(&shape).expect("plain data");
    assert_eq!(serde_json::from_str::<CacheShape>(&text).expect("it was written so"), shape);
}

#[test]
fn a_tensor_past_the_end_of_its_storage_is_refused() {
    let view = View { offset: MIB - 16_383, ..kv(16, 2, 32, 8) };
    assert!(refusal(full(32), &[view]).contains("ends at byte Some(1048577) of storage 0"));
    let view = View { storage: 1, ..kv(16, 2, 32, 8) };
    assert!(refusal(full(32), &[view]).contains("no storage 1"));
    let mut view = kv(16, 2, 32, 8);
    view.strides[0] = u64::MAX / 4;
    assert!(refusal(full(32), &[view]).contains("ends at byte None"));
}

#[test]
fn rows_with_gaps_are_refused() {
    let mut view = latent(0);
    view.strides[2] = 72;
    view.strides[0] = 72 * 128;
    assert!(refusal(full(128), &[view]).contains("have gaps"));
    let mut view = latent(0);
    view.strides[3] = 2;
    assert!(refusal(full(128), &[view]).contains("without gaps"));
}

#[test]
fn blocks_across_each_other_are_refused() {
    let mut view = kv(16, 2, 32, 8);
    view.strides[0] = 300;
    assert!(refusal(full(32), &[view]).contains("lie across each other"));
}

#[test]
fn heads_that_the_rank_cannot_have_are_refused() {
    let view = View { heads: Heads::Split(vec![4]), ..kv(16, 2, 32, 8) };
    assert!(refusal(full(32), &[view]).contains("2 heads on rank 0 of 1, where [4] in all make 4"));
    let view = View { heads: Heads::Split(vec![3]), ..kv(16, 2, 32, 8) };
    let spec = CacheSpec::new(full(32), &[view], &[MIB], Shard { rank: 0, of: 2 });
    assert!(spec.expect_err("3 over 2").to_string().contains("one must divide the other"));
}

#[test]
fn slots_that_do_not_make_a_block_are_refused() {
    assert!(refusal(full(48), &[kv(16, 2, 32, 8)]).contains("do not divide the 48"));
    assert!(refusal(full(64), &[kv(15, 2, 32, 8)]).contains("no whole blocks of 64"));
    assert!(refusal(full(0), &[kv(16, 2, 32, 8)]).contains("at least 1"));
}

#[test]
fn doubled_and_missing_names_are_refused() {
    let view = kv(16, 2, 32, 8);
    assert!(refusal(full(32), &[view.clone(), view.clone()]).contains("two tensors are layers.3.kv"));
    assert!(refusal(full(32), &[]).contains("no tensor belongs to it"));
    assert!(refusal(full(32), &[View { group: 1, ..view.clone() }]).contains("no group 1"));
    let twice = vec![GroupInfo::full(0, 32), GroupInfo::full(0, 32)];
    assert!(refusal(twice, &[view]).contains("two groups are named g0"));
}

#[test]
fn axes_that_say_nothing_sound_are_refused() {
    let mut view = kv(16, 2, 32, 8);
    view.axes[2] = Axis::Row;
    assert!(refusal(full(32), &[view]).contains("Slot axes go with tokens"));
    let mut view = kv(16, 2, 32, 8);
    view.axes[1] = Axis::Block;
    assert!(refusal(full(32), &[view]).contains("two Block axes"));
    let mut view = kv(16, 2, 32, 8);
    view.axes.pop();
    assert!(refusal(full(32), &[view]).contains("there must be as many of each"));
    let view = View { element_bytes: 0, ..kv(16, 2, 32, 8) };
    assert!(refusal(full(32), &[view]).contains("element_bytes is 0"));
}

#[test]
fn told_ids_agree_with_the_blocks_of_a_lease_or_are_refused() {
    let spec = spec(full(128), &[latent(0)]).expect("sound");
    let leased = |ids: &[u32]| {
        let mut blocks = spec.kernel_blocks(&[ids.to_vec()]).expect("ids of the cache");
        blocks[0].sort_unstable();
        blocks
    };
    let shape = spec.shape();
    assert_eq!(shape.agree(&[vec![5, 2]], &leased(&[5, 2])), Ok(()));
    for told in [vec![5], vec![5, 2, 3], vec![5, 3]] {
        assert!(shape.agree(std::slice::from_ref(&told), &leased(&[5, 2])).is_err(), "{told:?}");
    }
    assert!(shape.agree(&[], &leased(&[5, 2])).is_err());
    assert!(shape.agree(&[vec![u32::MAX]], &leased(&[5, 2])).is_err());
}

#[test]
fn a_shape_that_would_leave_its_bounds_is_refused() {
    let sound = spec(full(32), &[kv(16, 2, 32, 8)]).expect("sound").shape();
    assert_eq!(sound.check(1), Ok(()));
    let changes: [fn(&mut CacheShape); 12] = [
        |shape| shape.groups[0].kernel_slots = 0,
        |shape| shape.groups[0].kernel_slots = 24,
        |shape| shape.groups[0].info.block_slots = 0,
        |shape| shape.groups[0].info.tokens_per_slot = 0,
        |shape| shape.planes[0].group = 1,
        |shape| shape.planes[0].layers = vec![2, 1],
        |shape| shape.planes[0].layers = (0..70_000).collect(),
        |shape| shape.planes[0].shape.content = u64::MAX,
        |shape| shape.planes[0].shape.rows.count = 0,
        |shape| shape.planes[0].shape.heads.count = 3,
        |shape| shape.planes[0].shape.heads.stride = 4,
        |shape| shape.planes[0].shape.split = Heads::Split(vec![0]),
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut shape = sound.clone();
        change(&mut shape);
        assert!(shape.check(1).is_err(), "change {index}");
    }
    assert!(sound.check(3).is_err());
}

#[test]
fn a_peers_layers_are_named_once_and_in_order() {
    let shape = spec(full(128), &[latent(0), latent(2)]).expect("it fits").shape();
    assert_eq!(shape.check(1), Ok(()));
    for layers in [vec![], vec![2, 0], vec![0, 0]] {
        let mut other = shape.clone();
        other.planes[0].layers = layers;
        let error = other.check(1).expect_err("no such list");
        assert!(error.to_string().contains("list of layers"), "{error}");
    }
}
