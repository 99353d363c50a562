//! Memory by what backs it, so that any process can reach it.

use serde::{Deserialize, Serialize};

use super::{Move, Spot};
use crate::fail::{Done, Fail, code};
use crate::hbm::{Hbm, Piece};

/// Where the bytes of a range are, in words that every process on this machine understands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Backing {
    /// Pieces of devices' memories, in order.
    Device(Vec<Piece>),
    /// Memory of a process, by its own addresses.
    Host(i32),
    /// A range without bytes.
    Nothing,
}

/// A range that this process can reach. Device memory stays what it is when its owner frees it: as on hardware, a link
/// writes where it was told to, whoever has the memory by then.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reach {
    start: u64,
    /// Ends and what is before them, in order.
    segments: Vec<(u64, Segment)>,
}

#[derive(Clone, Copy, Debug)]
enum Segment {
    /// Mapped here: where the byte at address 0 would be.
    Mapped(usize),
    /// Of a process.
    Host(i32),
}

impl Reach {
    /// Reaches `length` bytes that their owner has at `start`.
    pub(crate) fn open(hbm: &Hbm, start: u64, backing: &Backing, length: u64) -> Done<Self> {
        let end = start.checked_add(length);
        let end =
            end.ok_or_else(|| Fail::new(code::RT_PARAM_INVALID, "a range passes the end of addresses"))?;
        let mut segments: Vec<(u64, Segment)> = Vec::new();
        match backing {
            Backing::Nothing => {}
            Backing::Host(process) => segments.push((end, Segment::Host(*process))),
            Backing::Device(pieces) => {
                let mut at = start;
                for piece in pieces {
                    let place = hbm.at(piece.key, piece.offset, piece.len)?.as_ptr() as usize;
                    let origin = place.wrapping_sub(at as usize);
                    at += piece.len;
                    match segments.last_mut() {
                        // Neighbours in memory, too: one segment.
                        Some((end, Segment::Mapped(before))) if *before == origin => *end = at,
                        _ => segments.push((at, Segment::Mapped(origin))),
                    }
                }
            }
        }
        Ok(Self { start, segments })
    }

    /// Reaches memory of a process by its own addresses; nothing for a range that passes their end.
    pub(crate) fn host(process: i32, start: u64, length: u64) -> Option<Self> {
        let end = start.checked_add(length)?;
        Some(Self { start, segments: vec![(end, Segment::Host(process))] })
    }

    /// The byte at an address, and how many follow it in one piece.
    fn spot(&self, address: u64) -> Option<(Spot, u64)> {
        let index = self.segments.partition_point(|(end, _)| *end <= address);
        let (end, segment) = self.segments.get(index).filter(|_| address >= self.start)?;
        let spot = match segment {
            Segment::Mapped(origin) => Spot::Mapped(origin.wrapping_add(address as usize)),
            Segment::Host(process) => Spot::Host(*process, address),
        };
        Some((spot, end - address))
    }
}

/// Adds the copies that bring `length` bytes from one range to another; false when either is not all there.
pub(crate) fn plan(moves: &mut Vec<Move>, from: (&Reach, u64), to: (&Reach, u64), length: u64) -> bool {
    let mut done = 0;
    while done < length {
        let Some((source, before)) = from.0.spot(from.1 + done) else { return false };
        let Some((target, room)) = to.0.spot(to.1 + done) else { return false };
        let here = before.min(room).min(length - done);
        moves.push(Move { from: source, to: target, length: here });
        done += here;
    }
    true
}
