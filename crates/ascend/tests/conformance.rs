//! The facts of `tests/conformance.rs` for the transports between NPUs: on the software CANN, with both engines in one
//! process and with the owner in a process of its own; on real NPUs where `ROPEWAY_CONFORMANCE_DEVICES` names two.

use ropeway::TransportKind::{Hccl, Hixl, Ipc, Tcp};
use ropeway_testkit::conformance::Api;

macro_rules! suite {
    (($name:ident, $ground:expr) $($module:ident::$fact:ident),* $(,)?) => {
        mod $name {
            use super::*;
            use ropeway_testkit::conformance::{self, Ground};

            $(
                #[test]
                fn $fact() {
                    let name = concat!(stringify!($name), "::", stringify!($fact));
                    ropeway_testkit::watchdog::bounded(name, || {
                        conformance::$module::$fact(&$ground);
                    });
                }
            )*
        }
    };
}

ropeway_testkit::for_each_fact!(suite(hixl, Ground::of(Hixl)));
ropeway_testkit::for_each_fact!(suite(hixl_apart, Ground::of(Hixl).apart()));
ropeway_testkit::for_each_fact!(suite(hixl_c_apart, Ground::of(Hixl).over(Api::C).apart()));
ropeway_testkit::for_each_fact!(suite(hixl_into_host, Ground::of(Hixl).into_host()));
ropeway_testkit::for_each_fact!(suite(ipc, Ground::of(Ipc)));
ropeway_testkit::for_each_fact!(suite(ipc_into_host, Ground::of(Ipc).into_host()));
ropeway_testkit::for_each_fact!(suite(ipc_apart, Ground::of(Ipc).apart()));
ropeway_testkit::for_each_fact!(suite(hccl, Ground::of(Hccl)));
ropeway_testkit::for_each_fact!(suite(tcp_into_hbm, Ground::of(Tcp).into_hbm()));
ropeway_testkit::for_each_fact!(suite(hccl_apart, Ground::of(Hccl).apart()));

/// Not a test: the process that [`Ground::apart`](ropeway_testkit::conformance::Ground::apart) starts.
#[test]
fn owner_process() {
    ropeway_testkit::conformance::be_owner_if_asked();
}
