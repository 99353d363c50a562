//! What was measured on HIXL's C API, and what its source says.

mod links;

use std::ffi::{CStr, CString, c_char};

use ascend_sim::cs::ffi::*;
use ascend_sim::cs::{CommMem, EndpointDesc, Layout, OneSideOpDesc};
use ascend_sim::ffi::{In, Out, Text};
use ascend_sim::hbm::Range;
use links::*;

/// The layout since 9.1.
#[repr(C)]
struct ServerDesc {
    endpoints: *const EndpointDesc,
    ip: *const c_char,
    port: u32,
    count: u32,
    reserved: [u8; 104],
}

/// The layout since 9.1.
#[repr(C)]
struct ClientDesc {
    local: *const EndpointDesc,
    remote: *const EndpointDesc,
    ip: *const c_char,
    port: u32,
    reserved: [u8; 100],
}

fn layout<T>(at: &T) -> Layout {
    // SAFETY: the structure lives for the call that it is handed to.
    unsafe { In::from_ptr(std::ptr::from_ref(at).cast()) }
}

/// A zeroed configuration, or one with resources.
#[repr(C)]
struct Config {
    resources: *const c_char,
    reserved: [u8; 120],
}

const PLAIN: Config = Config { resources: std::ptr::null(), reserved: [0; 120] };

fn endpoint(protocol: i32, kind: i32, address: [u8; 4], physical: u32) -> EndpointDesc {
    let mut desc = EndpointDesc {
        protocol,
        address_kind: kind,
        address: [0; 36],
        place: 0,
        location: [0; 60],
        rest: [0xff; 52],
    };
    desc.address[..4].copy_from_slice(&address);
    desc.location[..4].copy_from_slice(&physical.to_ne_bytes());
    desc
}

fn hccs(physical: u32) -> EndpointDesc {
    endpoint(0, 2, physical.to_ne_bytes(), physical)
}

fn roce(physical: u32) -> EndpointDesc {
    endpoint(1, 0, [10, 77, 0, physical as u8 + 1], physical)
}

struct Server {
    handle: usize,
    port: u16,
}

impl Server {
    fn new(endpoints: &[EndpointDesc]) -> Self {
        let (port, resources) = (free_port(), CString::new(device_port()).unwrap());
        let config = Config { resources: resources.as_ptr(), reserved: [0; 120] };
        let desc = ServerDesc {
            endpoints: endpoints.as_ptr(),
            ip: c"127.0.0.1".as_ptr(),
            port: port.into(),
            count: endpoints.len() as u32,
            reserved: [0; 104],
        };
        let mut handle = 0;
        assert_eq!(sim_HixlCSServerCreate(layout(&desc), layout(&config), Out::from(&mut handle)), SUCCESS);
        Self { handle, port }
    }

    fn register(&self, tag: &CStr, mem: &CommMem) -> Result<usize, u32> {
        let mut handle = 0;
        let code =
            sim_HixlCSServerRegMem(self.handle, Text::from(tag), In::from(mem), Out::from(&mut handle));
        if code == SUCCESS { Ok(handle) } else { Err(code) }
    }

    fn listen(&self) -> u32 {
        sim_HixlCSServerListen(self.handle, 16)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        sim_HixlCSServerDestroy(self.handle);
    }
}

struct Client {
    handle: usize,
}

impl Client {
    fn new(local: &EndpointDesc, remote: &EndpointDesc, server: &Server) -> Self {
        let desc = ClientDesc {
            local,
            remote,
            ip: c"127.0.0.1".as_ptr(),
            port: server.port.into(),
            reserved: [0; 100],
        };
        let mut handle = 0;
        assert_eq!(sim_HixlCSClientCreate(layout(&desc), layout(&PLAIN), Out::from(&mut handle)), SUCCESS);
        Self { handle }
    }

    fn register(&self, mem: &CommMem) -> Result<usize, u32> {
        let mut handle = 0;
        let code =
            sim_HixlCSClientRegMem(self.handle, Text::from(c"t"), In::from(mem), Out::from(&mut handle));
        if code == SUCCESS { Ok(handle) } else { Err(code) }
    }

    fn connect(&self) -> u32 {
        sim_HixlCSClientConnect(self.handle, PATIENCE as u32)
    }

    fn put(&self, descs: &[OneSideOpDesc], ms: u32) -> u32 {
        sim_HixlCSClientBatchPutSync(self.handle, descs.len() as u32, In::from(descs), ms)
    }

    fn get(&self, descs: &[OneSideOpDesc]) -> u32 {
        sim_HixlCSClientBatchGetSync(self.handle, descs.len() as u32, In::from(descs), PATIENCE as u32)
    }

    fn post(&self, descs: &[OneSideOpDesc]) -> Result<usize, u32> {
        let mut handle = 0;
        let out = Out::from(&mut handle);
        let code = sim_HixlCSClientBatchPutAsync(self.handle, descs.len() as u32, In::from(descs), out);
        if code == SUCCESS { Ok(handle) } else { Err(code) }
    }

    fn status(&self, handle: usize) -> (u32, u32) {
        let mut status = 99;
        (sim_HixlCSClientQueryCompleteStatus(self.handle, handle, Out::from(&mut status)), status)
    }

    /// Regions with their tags.
    fn remote_memory(&self) -> Result<Vec<(String, CommMem)>, u32> {
        let (mut memory, mut tags, mut count) = (0_usize, 0_usize, 0);
        let (memory_out, tags_out) = (Out::from(&mut memory), Out::from(&mut tags));
        let count_out = Out::from(&mut count);
        let code =
            sim_HixlCSClientGetRemoteMem(self.handle, memory_out, tags_out, count_out, PATIENCE as u32);
        if code != SUCCESS {
            return Err(code);
        }
        let read = |index: usize| {
            // SAFETY: the library says that there are `count` regions at `memory`.
            let mem = unsafe { (memory as *const CommMem).wrapping_add(index).read() };
            // SAFETY: and as many tags at `tags`.
            let tag = unsafe { (tags as *const *const c_char).wrapping_add(index).read() };
            // SAFETY: each is a C string.
            let tag = unsafe { CStr::from_ptr(tag) };
            (tag.to_str().unwrap().to_owned(), mem)
        };
        Ok((0..count as usize).map(read).collect())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        sim_HixlCSClientDestroy(self.handle);
    }
}

fn device(range: &Range) -> CommMem {
    CommMem { kind: 0, address: range.va, size: range.len }
}

struct Two {
    server: Server,
    client: Client,
    here: Range,
    there: Range,
}

impl Two {
    /// A server on device 1, a client on device 0, 4 MiB on each.
    fn apart() -> Self {
        machine("a2", "");
        let (here, there) = (hbm(0, 4 << 20), hbm(1, 4 << 20));
        on(1);
        let server = Server::new(&[roce(1), hccs(1)]);
        server.register(c"kv", &device(&there)).unwrap();
        assert_eq!(server.listen(), SUCCESS);
        on(0);
        let client = Client::new(&hccs(0), &hccs(1), &server);
        client.register(&device(&here)).unwrap();
        Self { server, client, here, there }
    }

    fn linked() -> Self {
        let two = Self::apart();
        assert_eq!(two.client.connect(), SUCCESS);
        two
    }

    fn desc(&self, offset: u64, len: u64) -> OneSideOpDesc {
        OneSideOpDesc { remote: self.there.va + offset, local: self.here.va + offset, len }
    }
}

#[test]
fn a_configuration_is_required() {
    machine("a2", "");
    on(0);
    let endpoints = [hccs(0)];
    let desc = ServerDesc {
        endpoints: endpoints.as_ptr(),
        ip: c"127.0.0.1".as_ptr(),
        port: 0,
        count: 1,
        reserved: [0; 104],
    };
    let mut handle = 0;
    assert_eq!(sim_HixlCSServerCreate(layout(&desc), In::null(), Out::from(&mut handle)), PARAM_INVALID);
    assert_eq!(sim_HixlCSServerCreate(layout(&desc), layout(&PLAIN), Out::from(&mut handle)), SUCCESS);
    assert_eq!(sim_HixlCSServerDestroy(handle), SUCCESS);
    assert_eq!(sim_HixlCSServerDestroy(handle), PARAM_INVALID);
}

#[test]
fn put_and_get_move_bytes_right_after_connect() {
    let two = Two::linked();
    fill(two.here.va, 8192, 1);
    fill(two.there.va + 65_536, 8192, 2);
    assert_eq!(two.client.put(&[two.desc(0, 8192)], PATIENCE as u32), SUCCESS);
    assert_eq!(two.client.get(&[two.desc(65_536, 8192)]), SUCCESS);
    assert_eq!(bytes(two.there.va, 8192), bytes(two.here.va, 8192));
    assert_eq!(bytes(two.here.va + 65_536, 8192), bytes(two.there.va + 65_536, 8192));
}

#[test]
fn a_batch_before_connect_is_refused() {
    let two = Two::apart();
    assert_eq!(two.client.put(&[two.desc(0, 64)], 100), PARAM_INVALID);
    assert_eq!(two.client.remote_memory(), Err(PARAM_INVALID));
}

#[test]
fn the_built_in_region_comes_first() {
    let two = Two::linked();
    let list = two.client.remote_memory().unwrap();
    assert_eq!(list.len(), 2);
    assert_eq!((list[0].0.as_str(), list[0].1.size), ("_hixl_builtin_dev_trans_flag", 8));
    assert_eq!((list[1].0.as_str(), list[1].1), ("kv", device(&two.there)));
}

#[test]
fn an_endpoint_that_the_server_has_not_fails_connect() {
    let two = Two::apart();
    for wanted in [hccs(2), roce(2), endpoint(1, 2, 1_u32.to_ne_bytes(), 1)] {
        let local = if wanted.protocol == 0 { hccs(0) } else { roce(0) };
        assert_eq!(Client::new(&local, &wanted, &two.server).connect(), FAILED);
    }
    assert_eq!(Client::new(&roce(0), &roce(1), &two.server).connect(), SUCCESS);
    // An address that is none for its protocol matches nothing, not even itself.
    let odd = endpoint(1, 2, 1_u32.to_ne_bytes(), 1);
    on(1);
    let server = Server::new(&[odd]);
    assert_eq!(server.listen(), SUCCESS);
    on(0);
    assert_eq!(Client::new(&roce(0), &odd, &server).connect(), FAILED);
}

#[test]
fn memory_that_the_server_registers_late_is_usable_after_it_was_asked_for() {
    let two = Two::linked();
    let late = hbm(1, 1);
    on(1);
    two.server.register(c"late", &device(&late)).unwrap();
    on(0);
    let desc = OneSideOpDesc { remote: late.va, ..two.desc(0, 64) };
    assert_eq!(two.client.put(&[desc], PATIENCE as u32), PARAM_INVALID);
    assert_eq!(two.client.remote_memory().unwrap().len(), 3);
    assert_eq!(two.client.put(&[desc], PATIENCE as u32), SUCCESS);
}

#[test]
fn a_client_refuses_the_same_range_twice_and_may_let_go_while_connected() {
    let two = Two::linked();
    assert_eq!(two.client.register(&device(&two.here)), Err(PARAM_INVALID));
    let extra = hbm(0, 1);
    let handle = two.client.register(&device(&extra)).unwrap();
    let desc = OneSideOpDesc { local: extra.va, ..two.desc(0, 64) };
    assert_eq!(two.client.put(&[desc], PATIENCE as u32), SUCCESS);
    assert_eq!(sim_HixlCSClientUnregMem(two.client.handle, handle), SUCCESS);
    assert_eq!(two.client.put(&[desc], PATIENCE as u32), PARAM_INVALID);
    assert_eq!(two.client.put(&[two.desc(0, 64)], PATIENCE as u32), SUCCESS);
}

#[test]
fn a_second_connect_succeeds() {
    let two = Two::linked();
    assert_eq!(two.client.connect(), SUCCESS);
    assert_eq!(two.client.put(&[two.desc(0, 64)], PATIENCE as u32), SUCCESS);
}

#[test]
fn one_wrong_descriptor_spoils_a_batch_and_not_the_client() {
    let two = Two::linked();
    let good = two.desc(0, 64);
    let wrong = [
        OneSideOpDesc { len: 0, ..good },
        OneSideOpDesc { local: 0, ..good },
        OneSideOpDesc { remote: 0, ..good },
        OneSideOpDesc { remote: good.remote + two.there.len, ..good },
    ];
    fill(two.here.va, 64, 1);
    fill(two.there.va, 64, 2);
    let before = bytes(two.there.va, 64);
    for desc in wrong {
        assert_eq!(two.client.put(&[good, desc], PATIENCE as u32), PARAM_INVALID);
    }
    assert_eq!(two.client.put(&[], PATIENCE as u32), PARAM_INVALID);
    assert_eq!(bytes(two.there.va, 64), before, "nothing was posted");
    assert_eq!(two.client.put(&[good], PATIENCE as u32), SUCCESS);
}

#[test]
fn no_time_is_a_timeout_that_latches() {
    let two = Two::linked();
    assert_eq!(two.client.put(&[two.desc(0, 64)], 0), TIMEOUT);
    assert_eq!(two.client.put(&[two.desc(0, 64)], PATIENCE as u32), FAILED);
    assert_eq!(two.client.post(&[two.desc(0, 64)]), Err(FAILED));
}

#[test]
fn an_end_is_told_once() {
    let two = Two::linked();
    let batch = two.client.post(&[two.desc(0, 64)]).unwrap();
    let mut end = WAITING;
    eventually(|| {
        let (code, status) = two.client.status(batch);
        assert_eq!(code, SUCCESS);
        end = status;
        end != WAITING
    });
    assert_eq!(end, COMPLETED);
    assert_eq!(two.client.status(batch).0, PARAM_INVALID);
}

#[test]
fn a_client_has_4096_batches_that_nobody_asked_about() {
    let two = Two::linked();
    let mut last = 0;
    for _ in 0..4096 {
        // The link itself holds as many: let it work.
        eventually(|| match two.client.post(&[two.desc(0, 64)]) {
            Ok(batch) => {
                last = batch;
                true
            }
            Err(code) => panic!("{code}"),
        });
    }
    assert_eq!(two.client.post(&[two.desc(0, 64)]), Err(RESOURCE_EXHAUSTED));
    eventually(|| two.client.status(last).1 == COMPLETED);
    assert!(two.client.post(&[two.desc(0, 64)]).is_ok());
}

#[test]
fn a_failed_batch_latches_its_client_only() {
    let two = Two::linked();
    let other = Client::new(&hccs(0), &hccs(1), &two.server);
    other.register(&device(&two.here)).unwrap();
    assert_eq!(other.connect(), SUCCESS);
    {
        let _script = faults(&format!("lost_link remote=127.0.0.1:{} count=1", two.server.port));
        assert_eq!(two.client.put(&[two.desc(0, 64)], PATIENCE as u32), FAILED);
    }
    assert_eq!(two.client.put(&[two.desc(0, 64)], PATIENCE as u32), FAILED);
    assert_eq!(other.put(&[two.desc(0, 64)], PATIENCE as u32), SUCCESS);
}

#[test]
fn host_memory_needs_an_endpoint_that_takes_it() {
    machine("a2", "");
    on(0);
    let host = CommMem { kind: 1, address: pinned(4096), size: 4096 };
    assert_eq!(Server::new(&[hccs(0)]).register(c"h", &host), Err(PARAM_INVALID));
    assert!(Server::new(&[roce(0)]).register(c"h", &host).is_ok());
}

#[test]
fn data_calls_come_from_any_thread() {
    let two = Two::linked();
    let (client, desc) = (&two.client, two.desc(0, 64));
    std::thread::scope(|scope| {
        scope.spawn(move || assert_eq!(client.put(&[desc], PATIENCE as u32), SUCCESS));
    });
}

#[test]
fn a_server_that_is_gone_times_out_and_latches() {
    let Two { server, client, here, there } = Two::linked();
    drop(server);
    let desc = OneSideOpDesc { remote: there.va, local: here.va, len: 64 };
    assert_eq!(client.put(&[desc], 50), TIMEOUT);
    assert_eq!(client.put(&[desc], 50), FAILED);
}
