//! What a layout must fulfil before anything is computed from it.

use std::collections::BTreeSet;

use super::{LayoutSpec, MAX_GROUPS, MAX_NAME_BYTES, MAX_RATIO, Part};
use crate::{Error, ErrorKind, Limits, RegionId, Result};

pub(super) fn check(
    spec: &LayoutSpec,
    region_bytes: impl Fn(RegionId) -> Option<u64>,
    limits: &Limits,
) -> Result<()> {
    name("cache", &spec.name)?;
    counts(spec, limits)?;
    groups(spec)?;
    let mut names = BTreeSet::new();
    let mut total: u64 = 0;
    for item in &spec.parts {
        name("part", &item.name)?;
        if !names.insert(item.name.as_str()) {
            return Err(misuse(format!("cache {}: two parts are named {}", spec.name, item.name)));
        }
        part(spec, item, &region_bytes)?;
        // The sum bounds every byte count that plans compute, so that none of them can overflow.
        let bytes = u64::from(item.strided.blocks).checked_mul(item.strided.block_bytes);
        total = bytes.and_then(|bytes| total.checked_add(bytes)).ok_or_else(|| {
            bounds(format!("cache {}: its parts add up to more than 2^64 bytes", spec.name))
        })?;
    }
    for (index, group) in spec.groups.iter().enumerate() {
        if !spec.parts.iter().any(|part| usize::from(part.group) == index) {
            return Err(misuse(format!(
                "cache {}: group {} has no part; add one or leave the group out",
                spec.name, group.name
            )));
        }
    }
    raw(spec)
}

/// Ids of a group: what the shortest of its parts can hold.
pub(super) fn ids(spec: &LayoutSpec, group: usize) -> u32 {
    let parts = spec.parts.iter().filter(|part| usize::from(part.group) == group);
    parts.map(|part| part.strided.blocks / spec.groups[group].ratio).min().unwrap_or(0)
}

fn counts(spec: &LayoutSpec, limits: &Limits) -> Result<()> {
    if spec.groups.is_empty() {
        return Err(misuse(format!("cache {}: no group; begin with .group(name, ratio)", spec.name)));
    }
    if spec.groups.len() > MAX_GROUPS {
        return Err(full(format!(
            "cache {}: {} groups; at most {MAX_GROUPS} are possible",
            spec.name,
            spec.groups.len()
        )));
    }
    if spec.parts.is_empty() {
        return Err(misuse(format!("cache {}: no part; add one with .part(..)", spec.name)));
    }
    if spec.parts.len() as u64 > u64::from(limits.parts_per_cache) {
        return Err(full(format!(
            "cache {}: {} parts; limit parts_per_cache is {}",
            spec.name,
            spec.parts.len(),
            limits.parts_per_cache
        )));
    }
    Ok(())
}

fn groups(spec: &LayoutSpec) -> Result<()> {
    let mut names = BTreeSet::new();
    for group in &spec.groups {
        name("group", &group.name)?;
        if !names.insert(group.name.as_str()) {
            return Err(misuse(format!("cache {}: two groups are named {}", spec.name, group.name)));
        }
        if group.ratio == 0 || group.ratio > MAX_RATIO {
            return Err(misuse(format!(
                "cache {}: group {}: ratio is {}; it must be between 1 and {MAX_RATIO}",
                spec.name, group.name, group.ratio
            )));
        }
    }
    Ok(())
}

fn part(spec: &LayoutSpec, part: &Part, region_bytes: impl Fn(RegionId) -> Option<u64>) -> Result<()> {
    let Part { name, group, region, strided } = part;
    let Some(group) = spec.groups.get(usize::from(*group)) else {
        return Err(misuse(format!("part {name}: it belongs to no group; begin with .group(name, ratio)")));
    };
    if strided.block_bytes == 0 {
        return Err(misuse(format!("part {name}: block_bytes is 0; a block has at least one byte")));
    }
    if strided.stride < strided.block_bytes {
        return Err(misuse(format!(
            "part {name}: stride {} is less than block_bytes {}; blocks would overlap",
            strided.stride, strided.block_bytes
        )));
    }
    if strided.blocks < group.ratio {
        return Err(misuse(format!(
            "part {name}: {} blocks are less than ratio {} of group {}; it holds no id",
            strided.blocks, group.ratio, group.name
        )));
    }
    let Some(bytes) = region_bytes(*region) else {
        return Err(misuse(format!("part {name}: region {region} is not known; it may have been closed")));
    };
    match strided.end() {
        Some(end) if end <= bytes => Ok(()),
        Some(end) => Err(bounds(format!(
            "part {name}: its {} blocks end at byte {end} of region {region}, which has {bytes}; check offset and stride",
            strided.blocks
        ))),
        None => Err(bounds(format!(
            "part {name}: offset {} plus {} blocks at stride {} passes 2^64",
            strided.offset, strided.blocks, strided.stride
        ))),
    }
}

fn raw(spec: &LayoutSpec) -> Result<()> {
    let single = matches!(&spec.parts[..], [part] if part.strided.blocks == 1) && spec.groups.len() == 1;
    if spec.raw && !single {
        return Err(misuse(format!(
            "cache {}: a raw cache has one group, one part and one block",
            spec.name
        )));
    }
    Ok(())
}

fn name(what: &str, name: &str) -> Result<()> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return Err(misuse(format!(
            "{what} name of {} bytes; it must have between 1 and {MAX_NAME_BYTES}",
            name.len()
        )));
    }
    Ok(())
}

fn misuse(message: String) -> Error {
    Error::new(ErrorKind::ApiMisuse, "layout", message)
}

fn bounds(message: String) -> Error {
    Error::new(ErrorKind::OutOfBounds, "layout", message)
}

fn full(message: String) -> Error {
    Error::new(ErrorKind::Full, "layout", message)
}
