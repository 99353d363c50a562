//! The figures of the link model are those that the engine cuts and predicts by: both were taken from one page.

use std::collections::HashSet;

use ascend_sim::model::{Direction, Figures, Link, Mode, Scope};
use ascend_sim::topology;
use ropeway_ascend::curves::{self, Hosts, SIZES, Way};
use ropeway_ascend::node::Chip;

const DIRECTIONS: [(Direction, curves::Direction); 8] = [
    (Direction::D2rD, curves::Direction::D2rD),
    (Direction::RD2D, curves::Direction::RD2D),
    (Direction::D2rH, curves::Direction::D2rH),
    (Direction::RH2D, curves::Direction::RH2D),
    (Direction::H2rH, curves::Direction::H2rH),
    (Direction::RH2H, curves::Direction::RH2H),
    (Direction::H2rD, curves::Direction::H2rD),
    (Direction::RD2H, curves::Direction::RD2H),
];
const CHIPS: [(topology::Chip, Chip); 2] = [(topology::Chip::A2, Chip::A2), (topology::Chip::A3, Chip::A3)];
const HOSTS: [(Scope, Hosts); 2] = [(Scope::OneHost, Hosts::One), (Scope::TwoHosts, Hosts::Two)];
const WAYS: [(Link, Mode, Way); 6] = [
    (Link::Roce, Mode::Communicator, Way::RoceCommunicator),
    (Link::Roce, Mode::ClientServer, Way::RoceClientServer),
    (Link::Hccs, Mode::Communicator, Way::HccsCommunicator),
    (Link::Hccs, Mode::ClientServer, Way::HccsClientServer),
    (Link::Fabric, Mode::FabricAicpu, Way::FabricDevice),
    (Link::Fabric, Mode::FabricHost, Way::FabricHost),
];

#[test]
fn the_engines_curves_and_the_models_are_the_same_figures() {
    let mut known: HashSet<_> = curves::Link::published().collect();
    for (their_chip, chip) in CHIPS {
        for (scope, hosts) in HOSTS {
            for (carrier, mode, way) in WAYS {
                let link = curves::Link { chip, hosts, way };
                // Where a way was measured in one scope only, the model takes that for the other.
                let nearest = [hosts, Hosts::One, Hosts::Two]
                    .map(|hosts| curves::Link { hosts, ..link })
                    .into_iter()
                    .find(|link| curves::Link::published().any(|published| published == *link));
                for (theirs, ours) in DIRECTIONS {
                    let curve = nearest.and_then(|link| link.curve(ours));
                    let figures = Figures::find(their_chip, scope, carrier, mode, theirs);
                    assert_eq!(curve.is_some(), figures.is_some(), "{link:?} {ours:?}");
                    let (Some(curve), Some(figures)) = (curve, figures) else { continue };
                    for size in SIZES {
                        let (one, other) = (curve.gbps(size), size as f64 / figures.nanoseconds(size));
                        // The model keeps single precision.
                        assert!((one / other - 1.0).abs() < 1e-6, "{link:?} {ours:?} {size}: {one} {other}");
                    }
                }
                known.remove(&link);
            }
        }
    }
    assert!(known.is_empty(), "links that the model does not know: {known:?}");
}
