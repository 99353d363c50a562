//! The facts of `tests/conformance.rs` for hixl between two simulated A2 nodes: HCCS does not reach from one to the other,
//! so the way is RoCE.

use ropeway::TransportKind::Hixl;

macro_rules! suite {
    (($name:ident, $ground:expr) $($module:ident::$fact:ident),* $(,)?) => {
        mod $name {
            use super::*;
            use ropeway_testkit::conformance::{self, Ground};

            $(
                #[test]
                fn $fact() {
                    conformance::play("a2");
                    let name = concat!(stringify!($name), "::", stringify!($fact));
                    ropeway_testkit::watchdog::bounded(name, || {
                        conformance::$module::$fact(&$ground);
                    });
                }
            )*
        }
    };
}

ropeway_testkit::for_each_fact!(suite(hixl_across, Ground::of(Hixl).across()));

/// Not a test: the process that [`Ground::across`](ropeway_testkit::conformance::Ground::across) starts.
#[test]
fn owner_process() {
    ropeway_testkit::conformance::be_owner_if_asked();
}
