use super::*;
use proptest::prelude::*;

fn curves() -> Vec<(Link, Direction, Curve)> {
    Link::published()
        .flat_map(|link| Direction::ALL.map(|direction| (link, direction)))
        .filter_map(|(link, direction)| Some((link, direction, link.curve(direction)?)))
        .collect()
}

#[test]
fn every_curve_passes_through_its_published_points() {
    let link = Link { chip: Chip::A2, hosts: Hosts::One, way: Way::RoceCommunicator };
    let curve = link.curve(Direction::D2rD).unwrap();
    assert!((curve.gbps(128 << 10) - 5.735).abs() < 1e-9);
    assert!((curve.gbps(2 << 20) - 19.778).abs() < 1e-9);
    assert_eq!(curve.gbps(64 << 20), curve.gbps(2 << 20));
    assert!((curve.seconds(584) - curve.seconds(16 << 10)).abs() < 1e-15);
    for (_, _, curve) in curves() {
        for (size, gbps) in SIZES.iter().zip(curve.gbps) {
            assert!((curve.gbps(*size) / gbps - 1.0).abs() < 1e-12);
        }
    }
}

#[test]
fn remote_host_memory_is_out_of_reach_over_hccs() {
    for link in Link::published().filter(|link| link.way.name().starts_with("HCCS")) {
        for direction in [Direction::D2rH, Direction::RH2D, Direction::H2rH, Direction::RH2H] {
            assert_eq!(link.curve(direction), None, "{link:?} {direction}");
        }
        assert!(link.curve(Direction::D2rD).is_some());
    }
}

#[test]
fn two_small_blocks_are_not_merged_across_the_dip_of_an_a3_communicator() {
    let cuts = Cuts::of(Link { chip: Chip::A3, hosts: Hosts::One, way: Way::RoceCommunicator });
    let cut = cuts.get(Direction::D2rD);
    assert_eq!((cut.piece(32 << 10), cut.piece(16 << 10)), (16 << 10, 16 << 10));
    assert_eq!(cut.piece(1 << 20), 1 << 20, "well past the dip a run goes whole");
}

#[test]
fn a_curve_that_only_rises_is_never_cut() {
    let rising = Curve::new([1.0, 2.0, 4.0, 8.0, 9.0, 10.0, 11.0, 12.0]);
    assert_eq!(Cut::of(&rising), Cut::WHOLE);
    let cuts = Cuts::of(Link { chip: Chip::A2, hosts: Hosts::Two, way: Way::RoceCommunicator });
    assert_eq!(*cuts.get(Direction::D2rD), Cut::WHOLE);
}

#[test]
fn no_curve_needs_more_steps_than_are_kept() {
    for (link, direction, curve) in curves() {
        assert!(Cut::of(&curve).len_of_steps() < 12, "{link:?} {direction}");
    }
}

#[test]
fn a_direction_is_its_op_and_its_two_ends() {
    for direction in Direction::ALL {
        let same = Direction::of(direction.op(), direction.local_is_device(), direction.remote_is_device());
        assert_eq!(same, direction);
    }
}

#[test]
fn links_of_hixl_are_found_where_figures_are_published() {
    let link = |chip, hosts, way, mode| Link::of_hixl(chip, hosts, way, mode).map(|link| link.way);
    let (hccs, roce, served) = (way::Way::Hccs, way::Way::Roce, Mode::ClientServer);
    assert_eq!(link(Chip::A2, Hosts::One, hccs, served), Some(Way::HccsClientServer));
    assert_eq!(link(Chip::A2, Hosts::Two, roce, Mode::Communicator), Some(Way::RoceCommunicator));
    assert_eq!(link(Chip::A3, Hosts::Two, hccs, served), None);
    assert_eq!(link(Chip::Ascend950, Hosts::One, way::Way::Ub, served), None);
}

proptest! {
    #[test]
    fn pieces_make_up_the_run(index in 0usize..100, len in 0u64..64 << 20) {
        let curves = curves();
        let cut = Cut::of(&curves[index % curves.len()].2);
        let piece = cut.piece(len);
        prop_assert!(piece <= len && (piece > 0 || len == 0));
        prop_assert!(piece == len || piece.is_multiple_of(4096));
        prop_assert!(len == 0 || (cut.pieces(len) - 1) * piece < len && cut.pieces(len) * piece >= len);
    }

    #[test]
    fn no_cut_is_predicted_slower_than_the_whole_run_or_than_its_blocks(
        index in 0usize..100, block in 0usize..5, blocks in 1u64..300, len in 1u64..64 << 20
    ) {
        let curves = curves();
        let (link, direction, curve) = curves[index % curves.len()];
        let cut = Cut::of(&curve);
        let slack = 1.0 + 1e-9;
        prop_assert!(curve.seconds_cut(&cut, len) <= curve.seconds(len) * slack, "{link:?} {direction} {len}");
        let run = SIZES[block] * blocks;
        let merged = curve.seconds_cut(&cut, run);
        let unmerged = blocks as f64 * curve.seconds(SIZES[block]);
        prop_assert!(merged <= unmerged * 1.03, "{link:?} {direction} {blocks} × {}", SIZES[block]);
    }
}
