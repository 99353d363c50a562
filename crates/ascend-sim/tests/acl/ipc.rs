use std::ffi::{CStr, CString, c_char};

use ascend_sim::acl::ipc::*;
use ascend_sim::acl::memory::{Attributes, sim_aclrtGetMemInfo, sim_aclrtPointerGetAttributes};
use ascend_sim::ffi::{In, Out, Text};

use crate::rig::*;

const CLOSED_TO_ALL: u64 = 0;
const OPEN_TO_ALL: u64 = 1;
const PEER_ACCESS: u64 = 1;

fn export(at: usize, size: usize, flags: u64) -> Result<CString, i32> {
    let mut key: [c_char; 65] = [0; 65];
    let code = sim_aclrtIpcMemGetExportKey(at, size, Out::from(&mut key[..]), 65, flags);
    // SAFETY: zero-terminated by the call.
    if code == OK { Ok(unsafe { CStr::from_ptr(key.as_ptr()) }.to_owned()) } else { Err(code) }
}

fn import(key: &CStr, flags: u64) -> Result<usize, i32> {
    let mut at = 0;
    let code = sim_aclrtIpcMemImportByKey(Out::from(&mut at), Text::from(key), flags);
    if code == OK { Ok(at) } else { Err(code) }
}

fn close(key: &CStr) -> i32 {
    sim_aclrtIpcMemClose(Text::from(key))
}

fn free_bytes() -> usize {
    let (mut free, mut total) = (0, 0);
    assert_eq!(sim_aclrtGetMemInfo(1, Out::from(&mut free), Out::from(&mut total)), OK);
    free
}

fn line(hear: &mut impl Iterator<Item = std::io::Result<String>>) -> String {
    hear.next().unwrap().unwrap()
}

#[test]
fn an_export_is_whole_pages_and_its_key_65_bytes() {
    on(0);
    let (huge, plain) = (malloc(4 * MIB, HUGE_ONLY).unwrap(), malloc(8192, NORMAL_ONLY).unwrap());
    let mut key = [0; 65];
    assert_eq!(sim_aclrtIpcMemGetExportKey(plain, 4096, Out::from(&mut key[..]), 64, 1), 107_000);
    assert_eq!(export(huge, MIB, OPEN_TO_ALL), Err(107_000), "not a whole huge page");
    assert_eq!(export(huge + 4096, 2 * MIB, OPEN_TO_ALL), Err(107_008));
    assert_eq!(export(plain, 64 * MIB, OPEN_TO_ALL), Err(107_000), "past the allocation");
    for (at, size) in [(huge, 2 * MIB), (plain + 4096, 4096)] {
        let key = export(at, size, OPEN_TO_ALL).unwrap();
        assert_eq!(key.as_bytes().len(), 64);
        assert_eq!((close(&key), close(&key)), (OK, 107_000));
    }
    assert_eq!((free(huge), free(plain)), (OK, OK));
}

#[test]
fn exported_memory_cannot_be_freed_before_its_key_is_closed() {
    on(0);
    let at = malloc(2 * MIB, HUGE_ONLY).unwrap();
    let key = export(at, 2 * MIB, OPEN_TO_ALL).unwrap();
    assert_eq!(free(at), 207_002);
    assert_eq!(close(&key), OK);
    assert_eq!(free(at), OK);
}

/// Imports by the key it hears, as device 1, and does what it is told.
#[test]
fn a_child_imports() {
    let Some(mut hear) = as_child("ipc::a_child_imports") else { return };
    on(1);
    let key = CString::new(line(&mut hear)).unwrap();
    let (mut at, local, stream) = (0, malloc(4096, NORMAL_ONLY).unwrap(), stream());
    loop {
        let words = line(&mut hear);
        let mut byte = [0_u8];
        match words.as_str() {
            "import" => tell(import(&key, 0).map_or_else(
                |code| code,
                |va| {
                    at = va;
                    OK
                },
            )),
            "import with peer access" => tell(import(&key, PEER_ACCESS).map_or_else(
                |code| code,
                |va| {
                    at = va;
                    OK
                },
            )),
            "read" => {
                tell(memcpy_async(local, at, 1, D2D, stream));
                tell(sync(stream));
                tell(get_bytes(local, 1)[0]);
            }
            "write" => {
                put_bytes(local, &[99]);
                assert_eq!(memcpy_async(at + 1, local, 1, D2D, stream), OK);
                tell(sync(stream));
            }
            "read to the host" => tell(memcpy(byte.as_mut_ptr() as usize, 1, at, 1, D2H)),
            "copy there at once" => tell(memcpy(at + 64, 1, at, 1, D2D)),
            "where" => {
                let mut found = Attributes::default();
                assert_eq!(sim_aclrtPointerGetAttributes(at, Out::from(&mut found)), OK);
                tell(found.location.id);
            }
            "close" => tell(close(&key)),
            "close twice" => tell(close(&key)),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn an_importer_is_on_the_exporters_list_reads_and_writes_on_a_stream_and_closes_first() {
    on(0);
    let at = malloc(2 * MIB, HUGE_ONLY).unwrap();
    put_bytes(at, &[55]);
    let key = export(at, 2 * MIB, CLOSED_TO_ALL).unwrap();
    let mut other = Other::start("ipc::a_child_imports");
    let ask = |other: &mut Other, words: &str| {
        other.say(words);
        other.hear()
    };
    other.say(key.to_str().unwrap());
    assert_eq!(ask(&mut other, "import"), "207006", "not on the list");
    assert_eq!(sim_aclrtIpcMemSetImportPid(Text::from(key.as_c_str()), In::from(&other.pid()), 1), OK);
    assert_eq!(ask(&mut other, "import"), "0");
    assert_eq!(ask(&mut other, "import"), "107000", "open already");
    assert_eq!(ask(&mut other, "read"), "207006", "another device's memory, without peer access");
    let _ = (other.hear(), other.hear());
    assert_eq!(ask(&mut other, "close"), "0");
    assert_eq!(ask(&mut other, "import with peer access"), "0");
    assert_eq!(ask(&mut other, "where"), "0", "the exporter's device");
    assert_eq!((ask(&mut other, "read"), other.hear(), other.hear()), ("0".into(), "0".into(), "55".into()));
    assert_eq!(ask(&mut other, "write"), "0");
    assert_eq!(get_bytes(at, 2), [55, 99]);
    assert_eq!(ask(&mut other, "read to the host"), "207000", "no host copies across devices");
    assert_eq!(ask(&mut other, "copy there at once"), "207000", "no synchronous copies on one device");
    assert_eq!(close(&key), 507_022, "importers close first");
    assert_eq!(ask(&mut other, "close"), "0");
    assert_eq!(ask(&mut other, "close twice"), "107000");
    assert_eq!((close(&key), free(at)), (OK, OK));
    other.kill();
}

#[test]
fn an_importer_that_died_holds_nothing_up() {
    on(0);
    let at = malloc(2 * MIB, HUGE_ONLY).unwrap();
    let key = export(at, 2 * MIB, OPEN_TO_ALL).unwrap();
    let mut other = Other::start("ipc::a_child_imports");
    other.say(key.to_str().unwrap());
    other.say("import with peer access");
    assert_eq!(other.hear(), "0");
    assert_eq!(close(&key), 507_022);
    other.kill();
    assert_eq!((close(&key), free(at)), (OK, OK));
}

/// Takes 256 MiB of device 2 and exports half of it.
#[test]
fn a_child_exports() {
    let Some(mut hear) = as_child("ipc::a_child_exports") else { return };
    on(6);
    let at = malloc(256 * MIB, HUGE_ONLY).unwrap();
    put_bytes(at, &[77]);
    tell(export(at, 128 * MIB, OPEN_TO_ALL).unwrap().to_str().unwrap());
    let _ = hear.next();
}

#[test]
fn memory_of_a_process_that_died_is_free_again_but_not_what_an_importer_still_holds() {
    on(6);
    let before = free_bytes();
    let mut other = Other::start("ipc::a_child_exports");
    let key = CString::new(other.hear()).unwrap();
    let taken = before - free_bytes();
    assert!(taken >= 256 * MIB, "both processes see one device: {taken}");
    let at = import(&key, 0).unwrap();
    other.kill();
    assert_eq!(before - free_bytes(), taken, "still held here");
    let (local, stream) = (malloc(64, NORMAL_ONLY).unwrap(), stream());
    assert_eq!(memcpy_async(local, at, 1, D2D, stream), OK);
    assert_eq!((sync(stream), get_bytes(local, 1)), (OK, vec![77]));
    assert_eq!(free(local), OK);
    assert_eq!(import(&key, 0), Err(107_000), "its key died with it");
    assert_eq!(close(&key), OK);
    assert_eq!(free_bytes(), before);
}
