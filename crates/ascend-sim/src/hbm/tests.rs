use super::*;
use crate::topology::Chip;

struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn hbm(name: &str, visible: bool) -> (Scratch, Hbm) {
    let state = std::env::temp_dir().join(format!("ropeway-sim-hbm-{name}-{}", std::process::id()));
    let topology = Topology::uniform(Chip::A2, "9.1.0", 1, 2).unwrap();
    let it = Hbm::new(state.clone(), Arc::new(topology), visible);
    (Scratch(state), it)
}

const DEVICE: DeviceKey = DeviceKey { server: 0, physical: 0 };
const OTHER: DeviceKey = DeviceKey { server: 0, physical: 1 };

fn copy(hbm: &Hbm, dst: u64, src: u64, len: usize) -> Done {
    // SAFETY: the tests pass device addresses, or slices of at least `len` bytes.
    unsafe { hbm.copy(dst, src, len as u64) }
}

#[test]
fn what_is_written_to_one_device_is_read_back_and_not_on_the_other() {
    let (_scratch, hbm) = hbm("two", false);
    let (a, b) =
        (hbm.alloc(DEVICE, 100, 100, Page::Normal).unwrap(), hbm.alloc(OTHER, 100, 100, Page::Huge).unwrap());
    assert_eq!((a.len, b.len, b.va % (2 << 20)), (4096, 2 << 20, 0));
    let (from, mut to) = ([7_u8; 100], [9_u8; 100]);
    copy(&hbm, a.va, from.as_ptr() as u64, 100).unwrap();
    copy(&hbm, to.as_mut_ptr() as u64, b.va, 100).unwrap();
    assert_eq!(to, [0; 100]);
    copy(&hbm, b.va + 50, a.va, 50).unwrap();
    copy(&hbm, to.as_mut_ptr() as u64, b.va, 100).unwrap();
    assert_eq!((&to[..50], &to[50..]), (&[0; 50][..], &[7; 50][..]));
}

#[test]
fn a_dead_address_is_refused_and_its_memory_comes_back_as_zeros() {
    let (_scratch, hbm) = hbm("dead", false);
    let before = hbm.room(DEVICE).unwrap();
    let a = hbm.alloc(DEVICE, 64, 64, Page::Normal).unwrap();
    let mut bytes = [5_u8; 64];
    copy(&hbm, a.va, bytes.as_ptr() as u64, 64).unwrap();
    assert_eq!(hbm.room(DEVICE).unwrap().0, before.0 - 4096);
    hbm.free(a.va).unwrap();
    assert_eq!(hbm.room(DEVICE).unwrap(), before);
    assert_eq!(hbm.free(a.va).unwrap_err().code, code::RT_PARAM_INVALID);
    assert_eq!(hbm.translate(a.va, 1).unwrap_err().code, code::RT_PARAM_INVALID);
    let b = hbm.alloc(DEVICE, 64, 64, Page::Normal).unwrap();
    assert_ne!(a.va, b.va, "addresses are not used again at once");
    copy(&hbm, bytes.as_mut_ptr() as u64, b.va, 64).unwrap();
    assert_eq!(bytes, [0; 64]);
    assert_eq!(hbm.translate(b.va, 4097).unwrap_err().code, code::RT_PARAM_INVALID);
}

#[test]
fn a_full_device_refuses() {
    let (_scratch, hbm) = hbm("full", false);
    let total = hbm.room(DEVICE).unwrap().1;
    let all = hbm.alloc(DEVICE, total, total, Page::Huge).unwrap();
    assert_eq!(hbm.alloc(DEVICE, 1, 1, Page::Normal).unwrap_err().code, code::RT_MEMORY_ALLOCATION);
    assert_eq!(hbm.alloc(DEVICE, u64::MAX, 1, Page::Normal).unwrap_err().code, code::RT_MEMORY_ALLOCATION);
    hbm.free(all.va).unwrap();
}

#[test]
fn a_range_over_neighbouring_mappings_is_copied_whole() {
    let (_scratch, hbm) = hbm("vmm", false);
    let page = Page::Huge.bytes();
    let va = hbm.reserve(DEVICE, 2 * page, page).unwrap();
    let blocks = [1, 0].map(|_| hbm.new_block(DEVICE, page, Page::Huge).unwrap());
    for (index, block) in blocks.iter().rev().enumerate() {
        let range = Range {
            va: va + index as u64 * page,
            len: page,
            asked: page,
            page: Page::Huge,
            key: DEVICE,
            offset: block.offset,
            block: block.id,
            kind: Kind::Mapped(1),
        };
        hbm.map_at(range.clone()).unwrap();
        assert_eq!(hbm.map_at(range).unwrap_err().code, code::RT_PARAM_INVALID);
    }
    let (from, mut to) = ([3_u8; 64], [0_u8; 64]);
    copy(&hbm, va + page - 32, from.as_ptr() as u64, 64).unwrap();
    copy(&hbm, to.as_mut_ptr() as u64, va + page - 32, 64).unwrap();
    assert_eq!(to, from);
    assert_eq!(hbm.pieces(va, 2 * page).unwrap().len(), 2);
    assert!(hbm.translate(va + page - 1, 2).is_err());
    assert!(hbm.translate(va, page).is_ok());
}

#[test]
fn the_host_can_touch_device_memory_only_where_it_was_asked_for() {
    let (_scratch, hidden) = hbm("hidden", false);
    let (_scratch2, shown) = hbm("shown", true);
    for (hbm, want) in [(hidden, false), (shown, true)] {
        let a = hbm.alloc(DEVICE, 8, 8, Page::Normal).unwrap();
        assert_eq!(readable(a.va), want);
        hbm.free(a.va).unwrap();
        assert!(!readable(a.va), "not after it was freed");
    }
}

/// Whether a host access would succeed: the kernel is asked to read there, which fails where a program would fault.
fn readable(va: u64) -> bool {
    let (reader, writer) = std::io::pipe().unwrap();
    use std::os::fd::AsRawFd;
    // SAFETY: the kernel checks the address.
    let wrote = unsafe { libc::write(writer.as_raw_fd(), va as *const libc::c_void, 1) };
    drop(reader);
    wrote == 1
}
