//! Strangers on the ports, secrets that are wrong, machines that refuse: each ends in a typed error that says what, where
//! and what to do, and the engine works on.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ropeway::{
    Auth, BlockId, ClusterKey, Descriptor, Engine, Error, ErrorKind, Host, LeaseOptions, Limits, Rights,
    Strided, Submit, TransportKind,
};
use ropeway_testkit::cannot_run;
use ropeway_testkit::process::{Child, EDGE, Setup, be_peer_if_asked};
use ropeway_testkit::watchdog::{WAIT, bounded, eventually};

const BLOCK: u64 = 64 << 10;

#[test]
fn peer_process() {
    be_peer_if_asked();
}

fn here() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn spawn(setup: &Setup) -> (Child, String) {
    let mut child = Child::spawn("peer_process", setup);
    let answer = child.hear();
    let descriptor = answer.strip_prefix("ok ").unwrap_or_else(|| panic!("the peer did not open: {answer}"));
    (child, descriptor.to_owned())
}

/// The same engine by its address only, so that it is reached over the network although it is in this process.
fn from_afar(engine: &Engine) -> Descriptor {
    Descriptor { incarnation: None, ..engine.descriptor() }
}

fn connects(from: &Engine, to: &Descriptor, timeout: Duration) -> Result<(), Error> {
    let peer = from.connect(to, timeout)?.wait()?;
    peer.close(WAIT)
}

/// One block over tcp from `owner` to `importer`, over real sockets. The caches have a name of their own each time: an
/// earlier one is published until the release of its lease has reached its owner.
fn moves_a_block(owner: &Engine, importer: &Engine) {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let name = format!("kv-{}", CALLS.fetch_add(1, Ordering::Relaxed));
    let publish = |engine: &Engine, byte| {
        let region = engine.alloc(Host::private(4 * BLOCK)).expect("memory");
        region.fill(0, 4 * BLOCK, byte).expect("inside");
        let builder = engine.cache(&name).group("g0", 1).part("p", &region, Strided::dense(0, BLOCK, 4));
        (builder.publish().expect("published"), region)
    };
    let ((theirs, _source), (ours, target)) = (publish(owner, 7), publish(importer, 8));
    let lease = theirs.lease(&[&[BlockId(1)]], Rights::Read, LeaseOptions::default()).expect("lease");
    let peer = importer.connect(&from_afar(owner), WAIT).expect("connect").wait().expect("connected");
    let grant = peer.claim(&lease.token(), WAIT).expect("claim").wait().expect("claimed");
    let route = peer.route(&ours, &name, WAIT).expect("route").wait().expect("routed");
    let plan = route.read(&grant, &[&[BlockId(2)]], &[&[BlockId(1)]]).expect("planned");
    plan.submit(Submit::default()).expect("submitted").wait(WAIT).expect("ends").expect("moved");
    let mut bytes = vec![0; BLOCK as usize];
    target.read(2 * BLOCK, &mut bytes).expect("inside");
    assert!(bytes.iter().all(|byte| *byte == 7));
}

/// What a scanner, a browser, a broken or a hostile peer might say first.
fn first_words() -> Vec<Vec<u8>> {
    let mut words: Vec<Vec<u8>> = vec![
        Vec::new(),
        vec![0],
        vec![0; 4096],
        vec![0xff; 4096],
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"SSH-2.0-OpenSSH_9.9\r\n".to_vec(),
        u32::MAX.to_le_bytes().to_vec(),
        u32::MAX.to_be_bytes().to_vec(),
        [&b"ROPEWAY"[..], &[1; 300]].concat(),
    ];
    words.extend((1..8).map(|seed| ropeway_testkit::oracle::pattern(seed, 700 * seed as usize)));
    words
}

/// Says the words and reads until the other side hangs up. Its answer, if it gave one.
fn say(to: SocketAddr, words: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(to).expect("the port is open");
    stream.set_read_timeout(Some(WAIT)).expect("a timeout");
    let _ = stream.write_all(words);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => answer,
        // A reset is a way to hang up, too.
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => answer,
        Err(error) => panic!("{} bytes said: the port neither answers nor hangs up: {error}", words.len()),
    }
}

fn tcp(limits: Limits) -> Engine {
    Engine::builder().limits(limits).listen(here()).transports(&[TransportKind::Tcp]).open().expect("engine")
}

#[test]
fn garbage_on_the_control_port_is_hung_up_on() {
    bounded("garbage_on_the_control_port_is_hung_up_on", || {
        let (owner, importer) = (tcp(Limits::default()), tcp(Limits::default()));
        let port = owner.descriptor().addresses[0];
        for words in first_words() {
            assert!(say(port, &words).len() < 256, "a stranger is told next to nothing");
        }
        assert!(owner.peers().is_empty());
        moves_a_block(&owner, &importer);
    });
}

#[test]
fn garbage_on_the_data_port_is_hung_up_on() {
    bounded("garbage_on_the_data_port_is_hung_up_on", || {
        let free = TcpListener::bind(here()).and_then(|taken| taken.local_addr()).expect("a free port");
        let builder = Engine::builder().listen(here()).transports(&[TransportKind::Tcp]);
        let owner = builder.data_port(free.port()).open().expect("engine");
        let importer = tcp(Limits::default());
        // A peer is served meanwhile.
        std::thread::scope(|scope| {
            let strangers = scope.spawn(|| {
                for words in first_words() {
                    assert!(say(free, &words).len() < 256, "a stranger is told next to nothing");
                }
            });
            moves_a_block(&owner, &importer);
            strangers.join().expect("all were hung up on");
        });
        moves_a_block(&owner, &tcp(Limits::default()));
    });
}

#[test]
fn silent_strangers_take_up_handshakes_and_no_more() {
    bounded("silent_strangers_take_up_handshakes_and_no_more", || {
        let owner = tcp(Limits::default().with_handshakes(2));
        let importer = tcp(Limits::default());
        let port = owner.descriptor().addresses[0];
        let strangers: Vec<_> = (0..3).map(|_| TcpStream::connect(port).expect("the port is open")).collect();
        std::thread::sleep(Duration::from_millis(50));
        let error =
            connects(&importer, &from_afar(&owner), Duration::from_millis(200)).expect_err("no place");
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        drop(strangers);
        connects(&importer, &from_afar(&owner), WAIT).expect("places come back");
        // Those that stay are shown the door after a while.
        let _strangers: Vec<_> =
            (0..3).map(|_| TcpStream::connect(port).expect("the port is open")).collect();
        connects(&importer, &from_afar(&owner), WAIT).expect("strangers have a limit of time");
    });
}

#[test]
fn a_wrong_secret_and_a_wrong_key_are_denied() {
    bounded("a_wrong_secret_and_a_wrong_key_are_denied", || {
        let importer = tcp(Limits::default());
        let owner = tcp(Limits::default());
        let denied = |descriptor: &Descriptor| {
            let error = connects(&importer, descriptor, WAIT).expect_err("a wrong secret");
            assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        };
        denied(&Descriptor { auth: Auth::Secret(importer_secret(&importer)), ..from_afar(&owner) });
        denied(&Descriptor { auth: Auth::Insecure, ..from_afar(&owner) });
        let keyed = |key: &[u8]| {
            let builder = Engine::builder().listen(here()).transports(&[TransportKind::Tcp]);
            builder.cluster_key(ClusterKey::new(key).expect("long enough")).open().expect("engine")
        };
        let (one, two, other) = (keyed(&[1; 32]), keyed(&[1; 32]), keyed(&[2; 32]));
        connects(&two, &from_afar(&one), WAIT).expect("the same key");
        let error = connects(&other, &from_afar(&one), WAIT).expect_err("another key");
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        let error = connects(&importer, &from_afar(&one), WAIT).expect_err("no key");
        assert_eq!(error.kind(), ErrorKind::ApiMisuse, "{error}");
    });
}

fn importer_secret(engine: &Engine) -> ropeway_core::wire::Secret {
    match engine.descriptor().auth {
        Auth::Secret(secret) => secret,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_port_that_takes_and_never_answers_costs_the_timeout() {
    bounded("a_port_that_takes_and_never_answers_costs_the_timeout", || {
        let importer = tcp(Limits::default());
        let hole = TcpListener::bind(here()).expect("a port");
        let address = hole.local_addr().expect("bound");
        let descriptor = Descriptor { incarnation: None, addresses: vec![address], auth: Auth::Insecure };
        let error = connects(&importer, &descriptor, Duration::from_millis(150)).expect_err("never answers");
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        drop(hole);
        let error = connects(&importer, &descriptor, WAIT).expect_err("closed");
        assert_eq!(error.kind(), ErrorKind::LinkLost, "{error}");
        assert!(error.message().contains(&address.to_string()), "says where: {error}");
        // A stopped engine takes connections, by its kernel, and never answers either.
        let (child, descriptor) = spawn(&Setup::of(TransportKind::Tcp));
        child.stop();
        let descriptor = descriptor.parse().expect("a descriptor");
        let error = connects(&importer, &descriptor, Duration::from_millis(150)).expect_err("stopped");
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        child.go_on();
        connects(&importer, &descriptor, WAIT).expect("awake again");
    });
}

#[test]
fn a_restarted_engine_is_not_taken_for_its_past_life() {
    bounded("a_restarted_engine_is_not_taken_for_its_past_life", || {
        let importer = Engine::builder().transports(&[TransportKind::Tcp]).open().expect("engine");
        let free = TcpListener::bind(here()).and_then(|taken| taken.local_addr()).expect("a free port");
        for insecure in [true, false] {
            let setup = Setup { listen: free, insecure, ..Setup::of(TransportKind::Tcp) };
            let (mut first, past) = spawn(&setup);
            let past: Descriptor = past.parse().expect("a descriptor");
            let token = first.must("lease read").parse().expect("a token");
            connects(&importer, &past, WAIT).expect("alive");
            first.kill();
            let (_second, now) = spawn(&setup);
            let error = connects(&importer, &past, WAIT).expect_err("another life");
            assert_eq!(error.kind(), ErrorKind::StaleLease, "{error}");
            assert!(error.message().contains("restarted"), "says what to do: {error}");
            let now = now.parse().expect("a descriptor");
            let peer = importer.connect(&now, WAIT).expect("connect").wait().expect("connected");
            let error = peer.claim(&token, WAIT).map(drop).expect_err("a lease of the past life");
            assert_eq!(error.kind(), ErrorKind::StaleLease, "{error}");
        }
    });
}

/// All transports are offered; the importer is another user than the owner.
#[test]
fn another_user_has_no_cma_and_is_told_why() {
    bounded("another_user_has_no_cma_and_is_told_why", || {
        if !is_root() {
            return cannot_run("another_user_has_no_cma_and_is_told_why", "becoming another user needs root");
        }
        for shared in [false, true] {
            let setup = Setup { bytes: 4 << 20, shared, ..Setup::default() };
            let (mut owner, descriptor) = spawn(&setup);
            let (mut importer, _) = spawn(&Setup { uid: Some(65_534), ..setup.clone() });
            let met = importer.must(&format!("connect {descriptor} 60000"));
            assert!(met.contains("uid") && met.contains("Cma"), "cma is refused with its reason: {met}");
            let expected = if shared { "shm" } else { "tcp" };
            chosen(&mut owner, &mut importer, expected);
        }
    });
}

#[test]
fn a_process_that_is_not_dumpable_has_no_cma() {
    bounded("a_process_that_is_not_dumpable_has_no_cma", || {
        if !is_root() {
            return cannot_run(
                "a_process_that_is_not_dumpable_has_no_cma",
                "becoming another user needs root",
            );
        }
        let setup = Setup { bytes: 4 << 20, uid: Some(65_534), ..Setup::default() };
        let (mut owner, descriptor) = spawn(&Setup { dumpable: false, ..setup.clone() });
        let (mut importer, _) = spawn(&setup);
        let met = importer.must(&format!("connect {descriptor} 60000"));
        assert!(met.contains("dumpable"), "cma is refused with its reason: {met}");
        chosen(&mut owner, &mut importer, "tcp");
    });
}

/// Moves all leased blocks over the transport that was chosen.
fn chosen(owner: &mut Child, importer: &mut Child, expected: &str) {
    owner.must("fill 5");
    importer.must("fill 6");
    let token = owner.must("lease read");
    importer.must(&format!("claim {token}"));
    assert_eq!(importer.must("route"), expected);
    importer.must("start read");
    importer.must("end 0");
    assert!(importer.hear_end().starts_with("ok"));
    assert_eq!(importer.must("holds"), format!("[5] [{EDGE}]"));
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn ip(arguments: &str) -> bool {
    let ran = Command::new("ip").args(arguments.split_whitespace()).output();
    ran.is_ok_and(|output| output.status.success())
}

/// A network namespace with a wire to it, removed at the end.
struct Network {
    name: String,
    outside: Ipv4Addr,
}

impl Network {
    fn new() -> Option<Self> {
        let id = std::process::id();
        let name = format!("rw{id}");
        // Of 198.18.0.0/15, which is set aside for such things.
        let [_, _, high, low] = id.to_be_bytes();
        let network = Self { outside: Ipv4Addr::new(198, 18, high, low & 0xfc | 1), name };
        let inside = Ipv4Addr::new(198, 18, high, low & 0xfc | 2);
        let Self { name, outside } = &network;
        let commands = [
            format!("netns add {name}"),
            format!("link add {name}a type veth peer name {name}b netns {name}"),
            format!("addr add {outside}/30 dev {name}a"),
            format!("link set {name}a up"),
            format!("-n {name} addr add {inside}/30 dev {name}b"),
            format!("-n {name} link set {name}b up"),
            format!("-n {name} link set lo up"),
        ];
        commands.iter().all(|command| ip(command)).then_some(network)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        ip(&format!("link del {}a", self.name));
        ip(&format!("netns del {}", self.name));
    }
}

/// Same host, same boot id, but neither sockets nor names in common: two pods.
#[test]
fn another_network_namespace_is_reached_over_tcp_only() {
    bounded("another_network_namespace_is_reached_over_tcp_only", || {
        let test = "another_network_namespace_is_reached_over_tcp_only";
        if !is_root() {
            return cannot_run(test, "making a network namespace needs root");
        }
        let Some(network) = Network::new() else {
            return cannot_run(test, "`ip netns` and veth pairs are not to be had here");
        };
        let setup = Setup { bytes: 4 << 20, shared: true, ..Setup::default() };
        let listen = SocketAddr::from((network.outside, 0));
        let (mut owner, descriptor) = spawn(&Setup { listen, ..setup.clone() });
        let (mut importer, _) = spawn(&Setup { network: Some(network.name.clone()), ..setup });
        let met = importer.must(&format!("connect {descriptor} 60000"));
        assert!(met.starts_with("tcp "), "{met}");
        assert!(met.contains("Shm") && met.contains("Cma"), "refused with their reasons: {met}");
        chosen(&mut owner, &mut importer, "tcp");
    });
}

#[test]
fn a_memory_cgroup_is_a_typed_error_and_not_a_killed_process() {
    bounded("a_memory_cgroup_is_a_typed_error_and_not_a_killed_process", || {
        let test = "a_memory_cgroup_is_a_typed_error_and_not_a_killed_process";
        let name = format!("rw{}", std::process::id());
        let candidates = [
            (format!("/sys/fs/cgroup/memory/{name}"), "memory.limit_in_bytes"),
            (format!("/sys/fs/cgroup/{name}"), "memory.max"),
        ];
        let limited = |(path, file): &(String, &'static str)| {
            let made = std::fs::create_dir(path).is_ok();
            made && std::fs::write(format!("{path}/{file}"), (96u64 << 20).to_string()).is_ok()
        };
        let group = candidates.iter().find(|candidate| limited(candidate));
        if let Some((path, file)) = group {
            for shared in [true, false] {
                let setup =
                    Setup { bytes: 512 << 20, shared, cgroup: Some(path.clone()), ..Setup::default() };
                let answer = Child::spawn("peer_process", &setup).hear();
                assert!(answer.starts_with("error resource"), "{answer}");
                assert!(answer.contains(file), "names the limit: {answer}");
            }
        }
        for (path, _) in &candidates {
            // A group is busy until its last process is reaped.
            eventually("the cgroup can be removed", || {
                !std::path::Path::new(path).exists() || std::fs::remove_dir(path).is_ok()
            });
        }
        if group.is_none() {
            cannot_run(test, "no memory cgroup can be made here; the rules are tested on recorded files");
        }
    });
}

#[test]
fn memory_that_is_not_to_be_had_is_a_typed_error() {
    let engine = Engine::builder().open().expect("engine");
    for host in [Host::private(1 << 46), Host::shared(1 << 46)] {
        let error = engine.alloc(host).expect_err("more than there is");
        assert_eq!(error.kind(), ErrorKind::Resource, "{error}");
        assert!(error.message().contains("70368744177664"), "says how much: {error}");
    }
    for host in [Host::private(0), Host::shared(0)] {
        assert_eq!(engine.alloc(host).expect_err("nothing").kind(), ErrorKind::ApiMisuse);
    }
    assert!(engine.alloc(Host::shared(1 << 16)).is_ok());
}

#[test]
fn a_descriptor_that_is_no_memfd_or_empty_is_refused() {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
    let engine = Engine::builder().open().expect("engine");
    let refused = |fd, kinds: &[ErrorKind]| {
        let error = engine.alloc(Host::memfd(fd)).expect_err("no fit memfd");
        assert!(kinds.contains(&error.kind()), "{error:?}");
        assert!(error.message().len() > 20, "says too little: {error}");
    };
    use ErrorKind::{ApiMisuse, Resource, Unsupported};
    refused(
        std::fs::File::open("/proc/self/exe").expect("a file").into(),
        &[ApiMisuse, Unsupported, Resource],
    );
    let memfd = || memfd_create("test", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).expect("memfd");
    refused(memfd(), &[ApiMisuse]);
    // One that can never be sealed against shrinking could kill every peer that maps it.
    let unsealable = memfd();
    ftruncate(&unsealable, 1 << 16).expect("sized");
    fcntl_add_seals(&unsealable, SealFlags::SEAL).expect("sealed against seals");
    refused(unsealable, &[ApiMisuse, Unsupported, Resource]);
    // A proper one becomes a region of its own size, and cannot be cut after that.
    let proper = memfd();
    ftruncate(&proper, 1 << 16).expect("sized");
    let region = engine.alloc(Host::memfd(proper.try_clone().expect("dup"))).expect("adopted");
    assert_eq!(region.len(), 1 << 16);
    assert!(ftruncate(&proper, 0).is_err(), "sealed");
    let short = engine.cache("kv").group("g0", 1).part("p", &region, Strided::dense(0, 1 << 16, 2)).publish();
    assert_eq!(short.map(drop).expect_err("past its end").kind(), ErrorKind::OutOfBounds);
}

#[test]
fn what_the_caller_hands_in_may_panic_at_its_end() {
    struct Panics(Vec<u8>);
    impl AsMut<[u8]> for Panics {
        fn as_mut(&mut self) -> &mut [u8] {
            &mut self.0
        }
    }
    impl Drop for Panics {
        fn drop(&mut self) {
            assert!(self.0.is_empty(), "a panic of the test");
        }
    }
    let engine = Engine::builder().open().expect("engine");
    drop(engine.register(Panics(vec![0; 4096])).expect("registered"));
    let (sent, dropped) = std::sync::mpsc::channel::<()>();
    struct Tells(Vec<u8>, #[expect(dead_code, reason = "held for its drop")] std::sync::mpsc::Sender<()>);
    impl AsMut<[u8]> for Tells {
        fn as_mut(&mut self) -> &mut [u8] {
            &mut self.0
        }
    }
    drop(engine.register(Tells(vec![0; 4096], sent)).expect("registered"));
    assert!(dropped.recv_timeout(WAIT).is_err_and(|end| end != std::sync::mpsc::RecvTimeoutError::Timeout));
    assert!(engine.close(WAIT).expect("close").held.is_empty());
}
