//! Rectangles of rows inside a kernel block: how a head slice of [token, head, dim] is named.

use crate::{Error, ErrorKind, Result};

/// The most rows of a rectangle.
const ROWS_MAX: u32 = 1 << 20;

/// Equal rows at equal distances inside one kernel block.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Rect {
    /// Byte offset of the first row, from the start of the block.
    pub offset: u64,
    /// How many rows; tokens, usually.
    pub rows: u32,
    /// Bytes of one row.
    pub row_bytes: u64,
    /// Bytes from the start of one row to the start of the next; at least `row_bytes`.
    pub row_stride: u64,
}

impl Rect {
    /// The whole of a block.
    pub const fn whole(block_bytes: u64) -> Self {
        Self { offset: 0, rows: 1, row_bytes: block_bytes, row_stride: block_bytes }
    }

    /// Bytes in all; `None` past 64 bits.
    pub const fn bytes(&self) -> Option<u64> {
        self.row_bytes.checked_mul(self.rows as u64)
    }

    /// The same bytes in the same order with as few rows as possible, if the rectangle lies in a block of
    /// `block_bytes`; in words what is wrong with it otherwise.
    pub(super) fn fit(mut self, block_bytes: u64) -> Result<Self, String> {
        if self.rows == 0 || self.rows > ROWS_MAX {
            return Err(format!("{} rows; between 1 and {ROWS_MAX} are possible", self.rows));
        }
        if self.row_bytes == 0 {
            return Err("row_bytes is 0".into());
        }
        if self.rows > 1 && self.row_stride < self.row_bytes {
            return Err(format!("row_stride {} is less than row_bytes {}", self.row_stride, self.row_bytes));
        }
        let last = u64::from(self.rows) - 1;
        let end = last.checked_mul(self.row_stride).and_then(|at| at.checked_add(self.row_bytes));
        let end = if last == 0 { Some(self.row_bytes) } else { end };
        match end.and_then(|end| end.checked_add(self.offset)) {
            Some(end) if end <= block_bytes => {}
            _ => {
                return Err(format!(
                    "offset {}, {} rows of {} bytes at stride {} pass the end of a block of {block_bytes} bytes",
                    self.offset, self.rows, self.row_bytes, self.row_stride
                ));
            }
        }
        if self.rows == 1 || self.row_stride == self.row_bytes {
            // No overflow: the rows end inside the block.
            self.row_bytes *= u64::from(self.rows);
            self.rows = 1;
            self.row_stride = self.row_bytes;
        }
        Ok(self)
    }

    /// The same bytes cut into `rows` rows, where they lie in one piece.
    fn cut(self, rows: u32) -> Option<Self> {
        let row_bytes = self.row_bytes / u64::from(rows);
        (self.rows == 1 && row_bytes * u64::from(rows) == self.row_bytes).then_some(Self {
            rows,
            row_bytes,
            row_stride: row_bytes,
            ..self
        })
    }
}

/// Which bytes of a part's blocks travel, and where they go in the other side's blocks.
///
/// A block of [128 tokens, 8 heads, 128 bytes] here, and one of two peers that hold 4 heads each:
///
/// ```
/// use ropeway_core::{Rect, Slice};
///
/// let head_bytes = 128;
/// let upper = Slice::new(
///     "layers.0.k",
///     Rect { offset: 4 * head_bytes, rows: 128, row_bytes: 4 * head_bytes, row_stride: 8 * head_bytes },
///     Rect::whole(128 * 4 * head_bytes),
/// );
/// assert_eq!(upper.local.bytes(), upper.remote.bytes());
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Slice {
    /// The part's name. A part may have several slices, as long as they do not overlap where they are written.
    pub part: String,
    /// In our blocks.
    pub local: Rect,
    /// In the peer's blocks: as many bytes, in rows of the same length unless one side lies in one piece.
    pub remote: Rect,
}

impl Slice {
    /// The slice of the named part.
    pub fn new(part: impl Into<String>, local: Rect, remote: Rect) -> Self {
        Self { part: part.into(), local, remote }
    }
}

/// Both rectangles cut into the same rows.
pub(super) fn pair(part: &str, local: Rect, remote: Rect) -> Result<(Rect, Rect)> {
    if local.bytes() != remote.bytes() {
        return Err(mismatch(format!(
            "part {part}: {} bytes of a local block against {} of a remote one",
            local.bytes().unwrap_or(u64::MAX),
            remote.bytes().unwrap_or(u64::MAX)
        )));
    }
    let pair = match (local.rows, remote.rows) {
        (a, b) if a == b => Some((local, remote)),
        (1, rows) => local.cut(rows).map(|local| (local, remote)),
        (rows, 1) => remote.cut(rows).map(|remote| (local, remote)),
        _ => None,
    };
    pair.ok_or_else(|| {
        mismatch(format!(
            "part {part}: {} rows of {} bytes against {} rows of {}; rows must be alike, or one side without gaps",
            local.rows, local.row_bytes, remote.rows, remote.row_bytes
        ))
    })
}

/// Rows that are compared one by one, in all, before a proof is given up: a hostile request could ask for any number.
const STEPS_MAX: u64 = 1 << 22;

/// The part of which two rectangles share a byte, or so many odd ones are named that no proof is tried. `places` gives
/// the part of each rectangle.
pub(super) fn overlap(places: &mut [(u32, Rect)]) -> Option<u32> {
    places.sort_unstable_by_key(|(part, rect)| (*part, rect.offset));
    let mut steps = STEPS_MAX;
    let mut clash = |rects: &[(u32, Rect)]| {
        rects.iter().enumerate().any(|(index, (_, a))| {
            rects[index + 1..].iter().any(|(_, b)| share(a, b, &mut steps).unwrap_or(true))
        })
    };
    places.chunk_by(|a, b| a.0 == b.0).find(|rects| clash(rects)).map(|rects| rects[0].0)
}

/// Whether two rectangles share a byte; `None` when the steps are used up.
fn share(a: &Rect, b: &Rect, steps: &mut u64) -> Option<bool> {
    *steps = steps.checked_sub(1)?;
    if a.rows == 1 || b.rows == 1 || a.row_stride == b.row_stride {
        let stride = if a.rows == 1 { b.row_stride } else { a.row_stride };
        return Some(rows_share(a, b, stride));
    }
    let (few, many) = if a.rows < b.rows { (a, b) } else { (b, a) };
    *steps = steps.checked_sub(few.rows.into())?;
    let mut rows = (0..u64::from(few.rows)).map(|row| few.offset + row * few.row_stride);
    Some(rows.any(|offset| rows_share(&Rect { offset, rows: 1, ..*few }, many, many.row_stride)))
}

/// The same for rows at equal distances: row `i` of `a` and row `j` of `b` share a byte where
/// `-b.row_bytes < d + (j - i) stride < a.row_bytes`, with `d` the distance of the first rows.
fn rows_share(a: &Rect, b: &Rect, stride: u64) -> bool {
    let stride = i128::from(stride);
    let distance = i128::from(b.offset) - i128::from(a.offset);
    let low = (-i128::from(b.row_bytes) - distance).div_euclid(stride) + 1;
    let high = (i128::from(a.row_bytes) - distance - 1).div_euclid(stride);
    low.max(1 - i128::from(a.rows)) <= high.min(i128::from(b.rows) - 1)
}

fn mismatch(message: String) -> Error {
    Error::new(ErrorKind::Mismatch, "route", message)
}
