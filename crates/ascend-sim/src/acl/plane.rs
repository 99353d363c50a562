//! Two-dimensional copies: rows of one width at two pitches.

use super::copy::{Run, asynchronous_rules, ends, run, submit};
use super::stream;
use crate::context::{self, Context};
use crate::fail::{Done, Fail, code, ensure};
use crate::runtime::Runtime;

/// A copy of rows.
#[derive(Clone, Copy, Debug)]
struct Plane {
    dst: u64,
    dst_pitch: u64,
    src: u64,
    src_pitch: u64,
    width: u64,
    height: u64,
}

impl Plane {
    fn rows(&self) -> Done<Vec<Run>> {
        let sound =
            self.width > 0 && self.height > 0 && self.width <= self.dst_pitch && self.width <= self.src_pitch;
        ensure(sound, code::RT_PARAM_INVALID, || format!("{self:?}: a row must fit into both pitches"))?;
        let row = |row: u64| {
            Some(Run {
                dst: self.dst.checked_add(self.dst_pitch.checked_mul(row)?)?,
                src: self.src.checked_add(self.src_pitch.checked_mul(row)?)?,
                len: self.width,
            })
        };
        let rows = (0..self.height).map(row).collect::<Option<Vec<_>>>();
        rows.ok_or_else(|| {
            Fail::new(code::RT_PARAM_INVALID, format!("{self:?} passes the end of all addresses"))
        })
    }
}

/// The rows, each checked as a copy of its own; all go the same way.
fn checked(runtime: &Runtime, context: &Context, kind: Option<u32>, plane: Plane) -> Done<Vec<Run>> {
    let rows = plane.rows()?;
    for row in &rows {
        let ends = ends(runtime, context, *row)?;
        if let Some(kind) = kind {
            asynchronous_rules(kind, ends, context)?;
        }
    }
    Ok(rows)
}

crate::export_raw! {
    /// `aclrtMemcpy2d`.
    fn sim_aclrtMemcpy2d(
        dst: usize, dst_pitch: usize, src: usize, src_pitch: usize, width: usize, height: usize, kind: u32,
    ) {
        let (context, runtime) = context::usable("aclrtMemcpy2d")?;
        ensure(kind <= 7, code::RT_PARAM_INVALID, || format!("kind {kind}"))?;
        let plane = plane(dst, dst_pitch, src, src_pitch, (width, height));
        let rows = checked(runtime, &context, None, plane)?;
        // SAFETY: the caller's promise.
        unsafe { run(runtime, "aclrtMemcpy2d", context.key, &rows) }
    }

    /// `aclrtMemcpy2dAsync`.
    fn sim_aclrtMemcpy2dAsync(
        dst: usize, dst_pitch: usize, src: usize, src_pitch: usize, width: usize, height: usize, kind: u32,
        stream: usize,
    ) {
        let (context, runtime) = context::usable("aclrtMemcpy2dAsync")?;
        let plane = plane(dst, dst_pitch, src, src_pitch, (width, height));
        let rows = checked(runtime, &context, Some(kind), plane)?;
        // SAFETY: the caller's promise.
        unsafe { submit(&stream::find(stream)?, "aclrtMemcpy2dAsync", rows) }
    }
}

fn plane(
    dst: usize,
    dst_pitch: usize,
    src: usize,
    src_pitch: usize,
    (width, height): (usize, usize),
) -> Plane {
    Plane {
        dst: dst as u64,
        dst_pitch: dst_pitch as u64,
        src: src as u64,
        src_pitch: src_pitch as u64,
        width: width as u64,
        height: height as u64,
    }
}
