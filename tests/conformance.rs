//! One suite of facts for every transport: each (transport, fact) is a test of its own.

macro_rules! suite {
    (($name:ident, $kind:expr) $($module:ident::$fact:ident),* $(,)?) => {
        mod $name {
            use ropeway_testkit::conformance::{self, Ground};

            $(
                #[test]
                fn $fact() {
                    let name = concat!(stringify!($name), "::", stringify!($fact));
                    ropeway_testkit::watchdog::bounded(name, || {
                        conformance::$module::$fact(&Ground { kind: $kind });
                    });
                }
            )*
        }
    };
}

ropeway_testkit::for_each_fact!(suite(loopback, ropeway::TransportKind::Loopback));
ropeway_testkit::for_each_fact!(suite(shm, ropeway::TransportKind::Shm));
ropeway_testkit::for_each_fact!(suite(cma, ropeway::TransportKind::Cma));
ropeway_testkit::for_each_fact!(suite(tcp, ropeway::TransportKind::Tcp));
