//! An A3 super-pod of two machines, seen from a container: ids, attributes, fabric handles, host-visible memory.

use std::ffi::CString;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Once;

use ascend_sim::acl::device::*;
use ascend_sim::acl::ipc::sim_aclrtIpcMemSetAttr;
use ascend_sim::acl::memory::{sim_aclrtFree, sim_aclrtMalloc};
use ascend_sim::acl::peer::sim_aclrtDeviceCanAccessPeer;
use ascend_sim::acl::share::*;
use ascend_sim::acl::vmm::*;
use ascend_sim::acl::{Location, init};
use ascend_sim::ffi::{In, Out, Text};
use ascend_sim::runtime::ropeway_sim_configure;

const STATE: &str = "ROPEWAY_SIM_TEST_STATE";
const PAGE: usize = 2 << 20;
/// Both machines have devices 4 to 7, which processes see as 2, 0 and 1 of their own.
const TOPOLOGY: &str = r#"{"version":1,"chip":"a3","nodes":[
    {"name":"near","super_pod":9,"devices":[{"physical":4},{"physical":5},{"physical":6},{"physical":7}]},
    {"name":"far","super_pod":9,"devices":[{"physical":4},{"physical":5},{"physical":6},{"physical":7}]}]}"#;

fn state() -> PathBuf {
    std::env::var_os(STATE).map_or_else(|| root().join(std::process::id().to_string()), PathBuf::from)
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("pod")
}

/// Removes what earlier runs left.
fn tidy() {
    for entry in std::fs::read_dir(root()).into_iter().flatten().flatten() {
        if !PathBuf::from("/proc").join(entry.file_name()).exists() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn on(device: i32) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tidy();
        let node = if std::env::var_os(STATE).is_some() { "far" } else { "near" };
        let json = format!(
            r#"{{"topology":{TOPOLOGY},"node":"{node}","state":{:?},"visible_devices":"1,2,0","host_visible":true}}"#,
            state()
        );
        let json = CString::new(json).unwrap();
        assert_eq!(ropeway_sim_configure(Text::from(json.as_c_str())), 0);
        assert_eq!(init::sim_aclInit(In::null()), 0);
        assert_eq!(ropeway_sim_configure(Text::from(json.as_c_str())), 100_002, "too late to change");
    });
    assert_eq!(sim_aclrtSetDevice(device), 0);
}

fn found(ask: impl FnOnce(Out<i32>) -> i32) -> i32 {
    let mut id = -1;
    let code = ask(Out::from(&mut id));
    if code == 0 { id } else { -code }
}

#[test]
fn user_logical_and_physical_ids_differ_in_a_container() {
    on(0);
    let mut count = 0;
    assert_eq!((sim_aclrtGetDeviceCount(Out::from(&mut count)), count), (0, 3));
    for (user, logical, physical) in [(0, 1, 5), (1, 2, 6), (2, 0, 4)] {
        assert_eq!(found(|out| sim_aclrtGetLogicDevIdByUserDevId(user, out)), logical);
        assert_eq!(found(|out| sim_aclrtGetUserDevIdByLogicDevId(logical, out)), user);
        assert_eq!(found(|out| sim_aclrtGetPhyDevIdByUserDevId(user, out)), physical);
        assert_eq!(found(|out| sim_aclrtGetUserDevIdByPhyDevId(physical, out)), user);
        assert_eq!(
            found(|out| sim_aclrtGetPhyDevIdByLogicDevId(user, out)),
            physical,
            "takes a user id in truth"
        );
    }
    assert_eq!(found(|out| sim_aclrtGetUserDevIdByPhyDevId(7, out)), -107_001, "not visible");
    assert_eq!(found(|out| sim_aclrtGetPhyDevIdByUserDevId(3, out)), -107_001);
}

#[test]
fn an_a3_tells_its_place_in_the_super_pod() {
    on(0);
    let attribute = |attribute| {
        let mut value = -1;
        assert_eq!(sim_aclrtGetDeviceInfo(0, attribute, Out::from(&mut value)), 0, "{attribute}");
        value
    };
    assert_eq!((attribute(403), attribute(404), attribute(405), attribute(408)), (5, 0, 9, 1));
    let mut topo = [0; 2];
    assert_eq!(sim_aclrtGetDevicesTopo(0, 2, Out::from(&mut topo[0])), 0);
    assert_eq!(sim_aclrtGetDevicesTopo(0, 1, Out::from(&mut topo[1])), 0);
    assert_eq!(topo, [0x20, 0x40], "two dies of one chip, and two chips");
    let mut can = 0;
    assert_eq!((sim_aclrtDeviceCanAccessPeer(Out::from(&mut can), 0, 1), can), (0, 1));
    assert_eq!(sim_aclrtIpcMemSetAttr(Text::from(c"none"), 0, 1), 107_000, "known, but no such key");
}

#[test]
fn host_visible_memory_can_be_touched_while_it_is_alive() {
    on(0);
    let mut at = 0;
    assert_eq!(sim_aclrtMalloc(Out::from(&mut at), 64, 2), 0);
    let byte = std::ptr::with_exposed_provenance_mut::<u8>(at);
    // SAFETY: device memory of this process, which this mode maps here.
    unsafe { byte.write_volatile(9) };
    // SAFETY: as above.
    assert_eq!(unsafe { byte.read_volatile() }, 9);
    assert_eq!(sim_aclrtFree(at), 0);
}

fn mapped(handle: usize) -> *mut u8 {
    let mut at = 0;
    assert_eq!(sim_aclrtReserveMemAddress(Out::from(&mut at), PAGE, 0, 0, 1), 0);
    assert_eq!(sim_aclrtMapMem(at, PAGE, 0, handle, 0), 0);
    std::ptr::with_exposed_provenance_mut(at)
}

/// On the other machine: imports the blob that it is given, and writes behind what it finds.
#[test]
fn a_child_on_the_other_machine_imports_fabric_memory() {
    if std::env::var_os(STATE).is_none() {
        return;
    }
    on(1);
    let hex = std::io::stdin().lines().next().unwrap().unwrap();
    let mut blob = Blob::default();
    for (at, pair) in bytes_of(&mut blob).iter_mut().zip(hex.as_bytes().chunks(2)) {
        *at = u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    }
    let mut handle = 0;
    assert_eq!(
        sim_aclrtMemImportFromShareableHandleV2(In::from(&blob), 1, 0, Out::from(&mut handle)),
        107_000
    );
    assert_eq!(sim_aclrtMemImportFromShareableHandleV2(In::from(&blob), 2, 0, Out::from(&mut handle)), 0);
    let at = mapped(handle);
    // SAFETY: mapped, and visible in this mode.
    let byte = unsafe { at.read_volatile() };
    // SAFETY: as above; the page has more than two bytes.
    unsafe { at.wrapping_add(1).write_volatile(byte + 1) };
    writeln!(std::io::stdout(), "@read {byte}").unwrap();
}

fn bytes_of(blob: &mut Blob) -> &mut [u8; 128] {
    // SAFETY: 128 bytes without padding, for which every value is sound.
    unsafe { &mut *(&raw mut *blob).cast() }
}

#[test]
fn a_fabric_handle_reaches_another_machine_of_the_super_pod() {
    on(0);
    let property = Property { attribute: 4, location: Location { id: 0, kind: 1 }, ..Property::default() };
    let (mut handle, mut blob) = (0, Blob::default());
    assert_eq!(sim_aclrtMallocPhysical(Out::from(&mut handle), PAGE, In::from(&property), 0), 0);
    let at = mapped(handle);
    // SAFETY: mapped, and visible in this mode.
    unsafe { at.write_volatile(41) };
    assert_eq!(sim_aclrtMemExportToShareableHandleV2(handle, 1, 2, Out::from(&mut blob)), 0);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_child_on_the_other_machine_imports_fabric_memory", "--nocapture"])
        .env(STATE, state())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let hex: String = bytes_of(&mut blob).iter().map(|byte| format!("{byte:02x}")).collect();
    writeln!(child.stdin.take().unwrap(), "{hex}").unwrap();
    let lines: Vec<String> =
        BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap).collect();
    assert!(child.wait().unwrap().success(), "{lines:?}");
    assert!(lines.iter().any(|line| line.ends_with("@read 41")), "{lines:?}");
    // SAFETY: as above.
    assert_eq!(unsafe { at.wrapping_add(1).read_volatile() }, 42);
}
