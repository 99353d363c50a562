//! One suite of facts for every transport: each (transport, fact) is a test of its own.

macro_rules! suite {
    (($name:ident, $ground:expr) $($module:ident::$fact:ident),* $(,)?) => {
        mod $name {
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

ropeway_testkit::for_each_fact!(suite(loopback, Ground::of(ropeway::TransportKind::Loopback)));
ropeway_testkit::for_each_fact!(suite(shm, Ground::of(ropeway::TransportKind::Shm)));
ropeway_testkit::for_each_fact!(suite(cma, Ground::of(ropeway::TransportKind::Cma)));
ropeway_testkit::for_each_fact!(suite(tcp, Ground::of(ropeway::TransportKind::Tcp)));
ropeway_testkit::for_each_fact!(suite(
    tcp_streams,
    Ground { streams: 4, ..Ground::of(ropeway::TransportKind::Tcp) }
));

// The same with the owner in a process of its own.
ropeway_testkit::for_each_fact!(suite(shm_apart, Ground::of(ropeway::TransportKind::Shm).apart()));
ropeway_testkit::for_each_fact!(suite(cma_apart, Ground::of(ropeway::TransportKind::Cma).apart()));
ropeway_testkit::for_each_fact!(suite(tcp_apart, Ground::of(ropeway::TransportKind::Tcp).apart()));

/// Not a test: the process that [`Ground::apart`](ropeway_testkit::conformance::Ground::apart) starts.
#[test]
fn owner_process() {
    ropeway_testkit::conformance::be_owner_if_asked();
}
