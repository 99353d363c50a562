//! The wire form of a cache layout.

use bytes::{BufMut, Bytes, BytesMut};

use super::{Reader, WireError};
use crate::Limits;
use crate::layout::{Group, LayoutSpec, MAX_GROUPS, MAX_NAME_BYTES, Part, Strided};

const VERSION: u8 = 1;
/// Bytes that a part takes besides its name: name length, group, region, and four numbers.
const PART_BYTES_MIN: usize = 2 + 2 + 8 + 8 + 8 + 8 + 4;

/// The layout's wire form.
pub fn encode_layout(layout: &LayoutSpec) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(VERSION);
    out.put_u8(layout.raw.into());
    put_name(&mut out, &layout.name);
    out.put_u16_le(layout.groups.len() as u16);
    for group in &layout.groups {
        put_name(&mut out, &group.name);
        out.put_u32_le(group.ratio);
    }
    out.put_u32_le(layout.parts.len() as u32);
    for part in &layout.parts {
        put_name(&mut out, &part.name);
        out.put_u16_le(part.group);
        out.put_u64_le(part.region.to_bits());
        out.put_u64_le(part.strided.offset);
        out.put_u64_le(part.strided.stride);
        out.put_u64_le(part.strided.block_bytes);
        out.put_u32_le(part.strided.blocks);
    }
    out.freeze()
}

/// Reads a peer's layout. What it says is not checked: [`LayoutSpec::build`] does that.
///
/// # Errors
/// Bytes that no encoder writes, or more parts than `parts_per_cache`.
pub fn decode_layout(bytes: &[u8], limits: &Limits) -> Result<LayoutSpec, WireError> {
    let mut from = Reader::new(bytes);
    let version = from.u8()?;
    if version != VERSION {
        return Err(WireError::Unknown { what: "layout version", value: version.into() });
    }
    let raw = from.bool("layout kind")?;
    let name = name(&mut from)?;
    let count = usize::from(from.u16()?);
    if count > MAX_GROUPS {
        return Err(WireError::TooLong { what: "groups", limit: MAX_GROUPS as u64 });
    }
    let mut groups = Vec::with_capacity(count);
    for _ in 0..count {
        groups.push(Group { name: self::name(&mut from)?, ratio: from.u32()? });
    }
    let count = from.count("parts", PART_BYTES_MIN)?;
    if count > limits.parts_per_cache as usize {
        return Err(WireError::TooLong { what: "parts", limit: limits.parts_per_cache.into() });
    }
    let mut parts = Vec::with_capacity(count);
    for _ in 0..count {
        parts.push(Part {
            name: self::name(&mut from)?,
            group: from.u16()?,
            region: from.region()?,
            strided: Strided {
                offset: from.u64()?,
                stride: from.u64()?,
                block_bytes: from.u64()?,
                blocks: from.u32()?,
            },
        });
    }
    from.finish()?;
    Ok(LayoutSpec { name, groups, parts, raw })
}

fn put_name(out: &mut BytesMut, name: &str) {
    debug_assert!(name.len() <= MAX_NAME_BYTES, "the layout was checked");
    out.put_u16_le(name.len() as u16);
    out.put_slice(name.as_bytes());
}

fn name(from: &mut Reader<'_>) -> Result<String, WireError> {
    Ok(from.text("name", MAX_NAME_BYTES)?.to_owned())
}
