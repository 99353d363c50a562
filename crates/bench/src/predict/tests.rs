use super::*;
use clap::Parser;
use ropeway_ascend::curves::Direction;

use crate::cli::{Cli, Command};

fn options(line: &str) -> Model {
    let words = ["ropeway-bench", "model"].into_iter().chain(line.split_whitespace());
    match Cli::try_parse_from(words).unwrap().command {
        Command::Model(options) => options,
        other => panic!("{other:?}"),
    }
}

fn all() -> String {
    let names: Vec<&str> = Direction::ALL.iter().map(|direction| direction.name()).collect();
    names.join(",")
}

#[test]
fn merging_makes_a_prompt_three_times_as_fast_on_a_roce_communicator_of_an_a2() {
    let figures = predict(&options(""), "DeepSeek-V2-Lite").unwrap();
    let of: Vec<&Figures> =
        figures.iter().filter(|of| of.chip == "A2" && of.link == "RoCE, communicator").collect();
    assert_eq!(of.len(), 4, "READ and WRITE, one host and two");
    for of in of {
        assert_eq!((of.bytes, of.descriptors, of.pieces), (254_803_968, 3456, 54));
        assert!(of.times_faster >= 3.0, "{} {}: {}", of.hosts, of.direction, of.times_faster);
    }
}

#[test]
fn merging_costs_no_link_more() {
    let figures = predict(&options(&format!("--direction {}", all())), "DeepSeek-V2-Lite").unwrap();
    assert_eq!(figures.len(), 112, "every published curve");
    for of in &figures {
        assert!(of.times_faster >= 1.0, "{of:?}", of = serde_json::to_string(of).unwrap());
    }
}

#[test]
fn a_merged_run_that_reaches_a_dip_is_cut() {
    // The host-to-device curve of the client/server engine on an A2 falls beyond 64 KiB.
    let figures = predict(&options("--direction rH2D"), "DeepSeek-V2-Lite").unwrap();
    let dips = figures.iter().find(|of| of.chip == "A2" && of.hosts == 1 && of.link == "RoCE, client/server");
    assert!(dips.unwrap().pieces > 54 * 4, "{}", dips.unwrap().pieces);
    let cut = Cut::WHOLE;
    let link = Link { chip: Chip::A2, hosts: Hosts::One, way: Way::RoceClientServer };
    let curve = link.curve(Direction::RH2D).unwrap();
    let whole = 27.0 * (curve.seconds_cut(&cut, 8 << 20) + curve.seconds_cut(&cut, 1 << 20)) * 1e3;
    assert!(whole > dips.unwrap().ms_unmerged, "merging alone would have cost more: {whole}");
}

#[test]
fn fragmented_ids_leave_nothing_to_merge() {
    let figures = predict(&options("--fragmentation 1"), "DeepSeek-V2-Lite").unwrap();
    assert!(figures.iter().all(|of| of.descriptors == 3456 && of.times_faster < 1.1));
}

#[test]
fn every_model_can_be_predicted() {
    for shape in model::all() {
        for line in ["--tokens 1", "--tokens 8192", "--tokens 100000 --fragmentation 0.3"] {
            let options = options(line);
            let figures = predict(&options, shape.name).unwrap();
            assert!(
                figures.iter().all(|of| of.bytes == shape.prompt_bytes(options.tokens)),
                "{}",
                shape.name
            );
            assert!(figures.iter().all(|of| of.ms > 0.0 && of.times_faster > 0.95), "{}", shape.name);
        }
    }
}
