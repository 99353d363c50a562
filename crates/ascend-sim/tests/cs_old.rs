//! HIXL's C API as CANN 9.0 had it: other structures under the same names.

mod links;

use std::ffi::c_char;

use ascend_sim::cs::ffi::*;
use ascend_sim::cs::{CommMem, EndpointDesc, Layout, OneSideOpDesc};
use ascend_sim::ffi::{In, Out, Text};
use ascend_sim::hixl::ffi::sim_hixl_capability;
use links::*;

#[repr(C)]
struct OldServerDesc {
    ip: *const c_char,
    port: u32,
    endpoints: *const EndpointDesc,
    count: u32,
}

#[repr(C)]
struct OldClientDesc {
    ip: *const c_char,
    port: u32,
    local: *const EndpointDesc,
    remote: *const EndpointDesc,
}

#[repr(C)]
struct NewServerDesc {
    endpoints: *const EndpointDesc,
    ip: *const c_char,
    port: u32,
    count: u32,
    reserved: [u8; 104],
}

fn layout<T>(at: &T) -> Layout {
    // SAFETY: the structure lives for the call that it is handed to.
    unsafe { In::from_ptr(std::ptr::from_ref(at).cast()) }
}

fn hccs(physical: u32) -> EndpointDesc {
    let (mut address, mut location) = ([0; 36], [0; 60]);
    address[..4].copy_from_slice(&physical.to_ne_bytes());
    location[..4].copy_from_slice(&physical.to_ne_bytes());
    EndpointDesc { protocol: 0, address_kind: 2, address, place: 0, location, rest: [0xff; 52] }
}

const CONFIG: [u64; 16] = [0; 16];

#[test]
fn the_old_structures_work_and_the_new_ones_do_not() {
    machine_of("a2", "9.0.0", "");
    let (here, there) = (hbm(0, 1), hbm(1, 1));
    on(1);
    let (server_end, port, mut server) = (hccs(1), free_port(), 0);
    let desc =
        OldServerDesc { ip: c"127.0.0.1".as_ptr(), port: port.into(), endpoints: &server_end, count: 1 };
    assert_eq!(sim_HixlCSServerCreate(layout(&desc), layout(&CONFIG), Out::from(&mut server)), SUCCESS);
    let memory = |range: &ascend_sim::hbm::Range| CommMem { kind: 0, address: range.va, size: range.len };
    let mut handle = 0;
    let mem = memory(&there);
    let tag = Text::from(c"kv");
    assert_eq!(sim_HixlCSServerRegMem(server, tag, In::from(&mem), Out::from(&mut handle)), SUCCESS);
    assert_eq!(sim_HixlCSServerListen(server, 4), SUCCESS);
    on(0);
    let (client_end, mut client) = (hccs(0), 0);
    let desc = OldClientDesc {
        ip: c"127.0.0.1".as_ptr(),
        port: port.into(),
        local: &client_end,
        remote: &server_end,
    };
    assert_eq!(sim_HixlCSClientCreate(layout(&desc), layout(&CONFIG), Out::from(&mut client)), SUCCESS);
    let mem = memory(&here);
    assert_eq!(sim_HixlCSClientRegMem(client, tag, In::from(&mem), Out::from(&mut handle)), SUCCESS);
    assert_eq!(sim_HixlCSClientConnect(client, PATIENCE as u32), SUCCESS);
    fill(here.va, 4096, 7);
    let batch = [OneSideOpDesc { remote: there.va, local: here.va, len: 4096 }];
    let mut posted = 0;
    let list = In::from(&batch[..]);
    assert_eq!(sim_HixlCSClientBatchPutAsync(client, 1, list, Out::from(&mut posted)), SUCCESS);
    let mut status = WAITING;
    eventually(|| {
        assert_eq!(sim_HixlCSClientQueryCompleteStatus(client, posted, Out::from(&mut status)), SUCCESS);
        status != WAITING
    });
    assert_eq!(status, COMPLETED);
    assert_eq!(bytes(there.va, 4096), bytes(here.va, 4096));
    assert_eq!((sim_HixlCSClientDestroy(client), sim_HixlCSServerDestroy(server)), (SUCCESS, SUCCESS));
}

#[test]
fn a_program_built_for_9_1_does_not_get_a_server_of_9_0() {
    machine_of("a2", "9.0.0", "");
    on(0);
    let (end, mut server) = (hccs(0), 0);
    let desc =
        NewServerDesc { endpoints: &end, ip: c"127.0.0.1".as_ptr(), port: 0, count: 1, reserved: [0; 104] };
    // It reads the endpoints as an address, and finds none in the number that it takes for one.
    let made = sim_HixlCSServerCreate(layout(&desc), layout(&CONFIG), Out::from(&mut server));
    assert_eq!(made, PARAM_INVALID);
}

#[test]
fn a_9_0_has_no_client_server_engine_behind_the_class() {
    machine_of("a2", "9.0.0", "");
    on(0);
    assert_eq!(Engine::try_new("127.0.0.1", &[CLIENT_SERVER]).err(), Some(PARAM_INVALID));
    let mut value = 9;
    assert_eq!(sim_hixl_capability(1, Out::from(&mut value)), SUCCESS);
    assert_eq!(value, 0);
}
