//! CPU that an engine with ten connected peers and no lease uses in ten seconds, by transport.
#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]

use std::time::Duration;

use ropeway::{Engine, TransportKind};
use ropeway_testkit::idle::cpu_seconds_while_idle;

const PEERS: usize = 10;
const TIME: Duration = Duration::from_secs(10);
const WAIT: Duration = Duration::from_secs(60);

fn main() {
    for kind in [TransportKind::Loopback, TransportKind::Shm, TransportKind::Cma, TransportKind::Tcp] {
        let open = || {
            let here = "127.0.0.1:0".parse().expect("an address");
            Engine::builder().listen(here).transports(&[kind]).open().expect("engine")
        };
        let (hub, others) = (open(), (0..PEERS).map(|_| open()).collect::<Vec<_>>());
        let connect =
            |other: &Engine| other.connect(&hub.descriptor(), WAIT).and_then(ropeway::Pending::wait);
        let peers: Vec<_> = others.iter().map(|other| connect(other).expect("connected")).collect();
        // What connecting left to do is not idling.
        std::thread::sleep(Duration::from_secs(1));
        let used = cpu_seconds_while_idle(TIME);
        let engines = PEERS + 1;
        println!("{kind}: {:.3} ms of CPU in {TIME:?}, {engines} engines with {PEERS} links", used * 1e3);
        drop(peers);
    }
}
