//! How many slots a kernel block has, group by group.

use super::plane::Placed;
use super::view::{Format, GroupInfo};
use super::{Result, refuse};

/// Slots of a kernel block where slot follows slot through the whole tensor, so that any cut is as good: small enough to
/// divide the block sizes in use.
pub const FINE_SLOTS: u32 = 16;

/// The kernel slots of each group.
pub(super) fn choose(groups: &[GroupInfo], planes: &[Placed]) -> Result<Vec<u32>> {
    let mut slots = Vec::with_capacity(groups.len());
    for (index, group) in groups.iter().enumerate() {
        let ours: Vec<&Placed> = planes.iter().filter(|plane| plane.group == index).collect();
        slots.push(of_group(group, &ours)?);
    }
    coarsen(groups, planes, &mut slots);
    Ok(slots)
}

fn of_group(group: &GroupInfo, planes: &[&Placed]) -> Result<u32> {
    if planes.is_empty() {
        return refuse(format!("group {}: no tensor belongs to it; leave the group out", group.name));
    }
    if group.block_slots == 0 || group.tokens_per_slot == 0 {
        return refuse(format!(
            "group {}: {} slots of {} tokens; both are at least 1",
            group.name, group.block_slots, group.tokens_per_slot
        ));
    }
    if group.is_state() {
        if group.block_slots != 1 {
            return refuse(format!(
                "group {}: {} slots; a state's block has 1",
                group.name, group.block_slots
            ));
        }
        return Ok(1);
    }
    let mut fixed = None;
    for plane in planes {
        let rows = plane.shape.rows.count;
        if rows == 0 || !group.block_slots.is_multiple_of(rows) {
            return refuse(format!(
                "{}: {rows} slots a block, which do not divide the {} of a block of group {}",
                plane.name(),
                group.block_slots,
                group.name
            ));
        }
        if !plane.blocks.is_multiple_of(group.block_slots / rows) {
            return refuse(format!(
                "{}: {} blocks of {rows} slots are no whole blocks of {}",
                plane.name(),
                plane.blocks,
                group.block_slots
            ));
        }
        if plane.is_fine(group) {
            continue;
        }
        match fixed {
            None => fixed = Some(rows),
            Some(slots) if slots == rows => {}
            Some(slots) => {
                return refuse(format!(
                    "{}: {rows} slots a block where others of group {} have {slots}; one size a group",
                    plane.name(),
                    group.name
                ));
            }
        }
    }
    Ok(fixed.unwrap_or_else(|| gcd(group.block_slots.into(), FINE_SLOTS.into()) as u32))
}

/// Groups that lie over each other in one storage get whole blocks, so that their strides are equal: plans then prove by
/// block ids alone that nothing is written twice.
fn coarsen(groups: &[GroupInfo], planes: &[Placed], slots: &mut [u32]) {
    let mut order: Vec<&Placed> = planes.iter().collect();
    order.sort_by_key(|plane| (plane.storage, plane.offset));
    let mut shared = vec![false; groups.len()];
    // The plane of the storage that reaches furthest so far.
    let mut widest: Option<&Placed> = None;
    for plane in order {
        let before = widest.filter(|before| before.storage == plane.storage);
        if let Some(before) = before
            && before.group != plane.group
            && before.end() > Some(plane.offset)
        {
            shared[before.group] = true;
            shared[plane.group] = true;
        }
        if before.is_none_or(|before| before.end() < plane.end()) {
            widest = Some(plane);
        }
    }
    for (index, group) in groups.iter().enumerate() {
        let fine = |plane: &Placed| plane.group != index || plane.is_fine(group);
        if shared[index] && !group.is_state() && planes.iter().all(fine) {
            slots[index] = group.block_slots;
        }
    }
}

/// Where a plane's kernel blocks lie: block bytes, stride and count.
pub(super) fn blocks(plane: &Placed, group: &GroupInfo, slots: u32) -> (u64, u64, u32) {
    if group.is_state() || !plane.is_fine(group) {
        return (plane.shape.part_bytes(), plane.block_stride, plane.blocks);
    }
    debug_assert_eq!(plane.shape.format, Format::Rows);
    let rows = plane.shape.rows.count;
    let bytes = plane.block_stride / u64::from(rows) * u64::from(slots);
    // Whole manager blocks, so nothing is left over.
    let count = u64::from(plane.blocks) * u64::from(rows) / u64::from(slots);
    (bytes, bytes, u32::try_from(count).unwrap_or(u32::MAX))
}

/// The greatest common divisor; of 0 and `b` it is `b`.
pub(crate) fn gcd(a: u64, b: u64) -> u64 {
    if a == 0 { b } else { gcd(b % a, a) }
}
