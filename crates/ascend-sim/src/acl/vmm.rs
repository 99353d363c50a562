//! Virtual memory management: addresses, physical memory and the mapping between them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{DEVICE, Location};
use crate::context;
use crate::fail::{Done, Fail, code, ensure};
use crate::ffi::{In, Out};
use crate::handles::Handles;
use crate::hbm::{Kind, Page, Range};
use crate::runtime::{Runtime, runtime};
use crate::topology::DeviceKey;

/// `aclrtPhysicalMemProp`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Property {
    /// 0.
    pub handle_type: u32,
    /// 0: pinned.
    pub allocation_type: u32,
    /// 4: HBM in huge pages.
    pub attribute: u32,
    /// On which device.
    pub location: Location,
    /// 0.
    pub reserved: u64,
}

/// `aclrtMemAccessDesc`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Access {
    /// 3: read and write.
    pub flags: u32,
    /// For which device.
    pub location: Location,
    /// 0.
    pub reserved: [u8; 12],
}

/// Physical memory with a handle.
#[derive(Debug)]
pub struct Physical {
    /// Its handle.
    pub handle: usize,
    /// Whose memory.
    pub key: DeviceKey,
    /// Its block, which this handle holds once, and each mapping once more.
    pub block: u64,
    /// Where in the device's memory it is.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// Its pages.
    pub page: Page,
    /// As it was asked for.
    pub property: Property,
    /// It has been exported, which can be done once.
    pub exported: AtomicBool,
    /// How often it was made or retained, less how often it was freed.
    references: AtomicUsize,
}

/// The live physical handles.
pub static PHYSICAL: Handles<Physical> = Handles::new("physical memory handle", 0xC4);

/// Reserved ranges of addresses.
static RESERVED: Mutex<BTreeMap<u64, u64>> = Mutex::new(BTreeMap::new());
/// Which devices beside its own may reach a mapping, by its address.
static ACCESS: Mutex<BTreeMap<u64, BTreeSet<DeviceKey>>> = Mutex::new(BTreeMap::new());

fn reserved() -> MutexGuard<'static, BTreeMap<u64, u64>> {
    RESERVED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn access() -> MutexGuard<'static, BTreeMap<u64, BTreeSet<DeviceKey>>> {
    ACCESS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a device may reach a mapping: its own memory, or after `aclrtMemSetAccess`.
#[must_use]
pub fn has_access(device: DeviceKey, range: &Range) -> bool {
    device == range.key || access().get(&range.va).is_some_and(|devices| devices.contains(&device))
}

/// Pages of an attribute, and so the granularity.
fn page_of(attribute: u32) -> Done<Page> {
    match attribute {
        1 | 4 | 5 | 8 | 9 | 12 | 13 | 15 | 16 => Ok(Page::Huge),
        10 | 11 | 14 | 17 => Ok(Page::Huge1G),
        _ => Err(Fail::new(code::RT_FEATURE_NOT_SUPPORT, format!("memory attribute {attribute}: HBM only"))),
    }
}

/// Pages and device of a property.
fn checked(runtime: &Runtime, property: Property) -> Done<(Page, DeviceKey)> {
    let plain = property.allocation_type == 0 && matches!(property.handle_type, 0 | 2);
    ensure(plain, code::RT_PARAM_INVALID, || format!("{property:?}"))?;
    ensure(property.location.kind == DEVICE, code::RT_FEATURE_NOT_SUPPORT, || {
        "physical memory of the host is not simulated".to_owned()
    })?;
    Ok((page_of(property.attribute)?, runtime.key(property.location.id as i32)?))
}

/// Adds a handle for a block that is held for it.
pub fn add(block: &crate::hbm::Block, key: DeviceKey, property: Property) -> Arc<Physical> {
    PHYSICAL.add(|handle| Physical {
        handle,
        key,
        block: block.id,
        offset: block.offset,
        len: block.len,
        page: block.page,
        property,
        exported: AtomicBool::new(false),
        references: AtomicUsize::new(1),
    })
}

fn map(runtime: &Runtime, at: u64, size: u64, handle: usize) -> Done {
    let physical = PHYSICAL.get(handle)?;
    ensure(size == physical.len, code::RT_PARAM_INVALID, || {
        format!("{size} bytes of a handle of {}: it is mapped whole", physical.len)
    })?;
    let aligned = at.is_multiple_of(physical.page.bytes());
    ensure(aligned, code::RT_ADDR_UNALIGNED, || format!("{at:#x} is not at a page"))?;
    let inside = reserved().range(..=at).next_back().is_some_and(|(start, len)| at + size <= start + len);
    ensure(inside, code::RT_PARAM_INVALID, || format!("{size} bytes at {at:#x} are not reserved"))?;
    runtime.hbm.hold(physical.key, physical.block)?;
    let mapped = runtime.hbm.map_at(Range {
        va: at,
        len: size,
        asked: size,
        page: physical.page,
        key: physical.key,
        offset: physical.offset,
        block: physical.block,
        kind: Kind::Mapped(handle as u64),
    });
    mapped.inspect_err(|_| drop(runtime.hbm.release(physical.key, physical.block)))
}

/// The mappings that make up a range of addresses without a gap.
fn mappings(runtime: &Runtime, at: u64, size: u64) -> Done<Vec<Range>> {
    runtime.hbm.pieces(at, size)?;
    let (mut next, mut found) = (at, Vec::new());
    while next < at + size {
        let range = runtime.hbm.range(next).filter(|range| matches!(range.kind, Kind::Mapped(_)));
        let range =
            range.ok_or_else(|| Fail::new(code::RT_PARAM_INVALID, format!("{next:#x} is not mapped")))?;
        next = range.va + range.len;
        found.push(range);
    }
    Ok(found)
}

crate::export! {
    /// `aclrtReserveMemAddress`: addresses without memory. Alignment is 0; flags are 0, or 1 for huge pages.
    fn sim_aclrtReserveMemAddress(at: Out<usize>, size: usize, alignment: usize, _expected: usize, flags: u64) {
        at.check()?;
        let (context, runtime) = context::usable("aclrtReserveMemAddress")?;
        ensure(size > 0 && alignment == 0 && flags <= 1, code::RT_PARAM_INVALID, || {
            format!("size {size}, alignment {alignment}, flags {flags}")
        })?;
        let page = Page::Huge.bytes();
        let size = (size as u64).checked_next_multiple_of(page);
        let size = size.ok_or_else(|| Fail::new(code::RT_MEMORY_ALLOCATION, "more than all addresses"))?;
        let align = if size >= Page::Huge1G.bytes() { Page::Huge1G.bytes() } else { page };
        let va = runtime.hbm.reserve(context.key, size, align)?;
        reserved().insert(va, size);
        at.set(va as usize)
    }

    /// `aclrtReleaseMemAddress`: after everything in it was unmapped.
    fn sim_aclrtReleaseMemAddress(at: usize) {
        let runtime = runtime()?;
        let mut reserved = reserved();
        let size = *reserved.get(&(at as u64)).ok_or_else(|| {
            Fail::new(code::RT_PARAM_INVALID, format!("no reservation starts at {at:#x}"))
        })?;
        let pages = (at as u64..at as u64 + size).step_by(Page::Huge.bytes() as usize);
        let empty = pages.into_iter().all(|page| runtime.hbm.range(page).is_none());
        ensure(empty, code::RT_MEMORY_FREE, || "something is still mapped there".to_owned())?;
        reserved.remove(&(at as u64));
        runtime.hbm.unreserve(at as u64);
        Ok(())
    }

    /// `aclrtMallocPhysical`: whole pages of a device's memory.
    fn sim_aclrtMallocPhysical(handle: Out<usize>, size: usize, property: In<Property>, flags: u64) {
        handle.check()?;
        let (_, runtime) = context::usable("aclrtMallocPhysical")?;
        let property = property.get()?;
        let (page, key) = checked(runtime, property)?;
        let whole = size > 0 && (size as u64).is_multiple_of(page.bytes()) && flags == 0;
        ensure(whole, code::RT_PARAM_INVALID, || format!("{size} bytes in pages of {}, flags {flags}", page.bytes()))?;
        let site = crate::fault::Site { op: "aclrtMallocPhysical", device: Some(key.physical), remote: None };
        let failed = runtime.faults.hit("alloc_fail", site).is_some();
        ensure(!failed, code::RT_MEMORY_ALLOCATION, || "refused by the fault script".to_owned())?;
        let block = runtime.hbm.new_block(key, size as u64, page)?;
        handle.set(add(&block, key, property).handle)
    }

    /// `aclrtFreePhysical`: memory that is still mapped stays until it is unmapped.
    fn sim_aclrtFreePhysical(handle: usize) {
        let physical = PHYSICAL.get(handle)?;
        if physical.references.fetch_sub(1, Ordering::AcqRel) > 1 {
            return Ok(());
        }
        PHYSICAL.remove(handle)?;
        runtime()?.hbm.release(physical.key, physical.block)
    }

    /// `aclrtMapMem`: a whole handle, offset 0, into reserved addresses.
    fn sim_aclrtMapMem(at: usize, size: usize, offset: usize, handle: usize, flags: u64) {
        let (_, runtime) = context::usable("aclrtMapMem")?;
        ensure(offset == 0 && flags == 0, code::RT_PARAM_INVALID, || format!("offset {offset}, flags {flags}"))?;
        map(runtime, at as u64, size as u64, handle)
    }

    /// `aclrtUnmapMem`.
    fn sim_aclrtUnmapMem(at: usize) {
        let runtime = runtime()?;
        let range = runtime.hbm.unmap(at as u64, |kind| matches!(kind, Kind::Mapped(_)))?;
        access().remove(&range.va);
        runtime.hbm.release(range.key, range.block)
    }

    /// `aclrtMemSetAccess`: which devices may reach mappings.
    fn sim_aclrtMemSetAccess(at: usize, size: usize, descriptions: In<Access>, count: usize) {
        let (_, runtime) = context::usable("aclrtMemSetAccess")?;
        ensure(count > 0, code::RT_PARAM_INVALID, || "no description".to_owned())?;
        let ranges = mappings(runtime, at as u64, size as u64)?;
        for description in descriptions.to_vec(count)? {
            let plain = description.flags == 3 && description.location.kind == DEVICE;
            ensure(plain, code::RT_FEATURE_NOT_SUPPORT, || format!("{description:?}: READWRITE for devices only"))?;
            let device = runtime.key(description.location.id as i32)?;
            for range in &ranges {
                access().entry(range.va).or_default().insert(device);
            }
        }
        Ok(())
    }

    /// `aclrtMemGetAccess`: 3 when the device may read and write, else 0.
    fn sim_aclrtMemGetAccess(at: usize, location: In<Location>, flag: Out<u64>) {
        let runtime = runtime()?;
        let device = runtime.key(location.get()?.id as i32)?;
        let range = runtime.hbm.range(at as u64).filter(|range| matches!(range.kind, Kind::Mapped(_)));
        let range = range.ok_or_else(|| Fail::new(code::RT_PARAM_INVALID, format!("{at:#x} is not mapped")))?;
        flag.set(if has_access(device, &range) { 3 } else { 0 })
    }

    /// `aclrtMemGetAllocationGranularity`.
    fn sim_aclrtMemGetAllocationGranularity(property: In<Property>, option: u32, granularity: Out<usize>) {
        ensure(option <= 1, code::RT_PARAM_INVALID, || format!("option {option}"))?;
        let (page, _) = checked(runtime()?, property.get()?)?;
        granularity.set(page.bytes() as usize)
    }

    /// `aclrtMemRetainAllocationHandle`: the handle behind a mapping, to be freed once more.
    fn sim_aclrtMemRetainAllocationHandle(at: usize, handle: Out<usize>) {
        let range = runtime()?.hbm.range(at as u64);
        let Some(Kind::Mapped(found)) = range.map(|range| range.kind) else {
            return Err(Fail::new(code::RT_PARAM_INVALID, format!("{at:#x} is not mapped (VMM) memory")));
        };
        PHYSICAL.get(found as usize)?.references.fetch_add(1, Ordering::AcqRel);
        handle.set(found as usize)
    }

    /// `aclrtMemGetAllocationPropertiesFromHandle`.
    fn sim_aclrtMemGetAllocationPropertiesFromHandle(handle: usize, property: Out<Property>) {
        property.set(PHYSICAL.get(handle)?.property)
    }
}
