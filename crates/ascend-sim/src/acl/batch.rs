//! Batches of copies between host and device.

use super::copy::{End, Run, ends, run, submit};
use super::{DEVICE, HOST, Location, UNREGISTERED, stream};
use crate::context::{self, Context};
use crate::fail::{Done, Fail, code, ensure};
use crate::ffi::{In, Out};
use crate::runtime::Runtime;

/// `aclrtMemcpyBatchAttr`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Attribute {
    /// Where the entries go.
    pub dst: Location,
    /// Where they come from.
    pub src: Location,
    /// Zero.
    pub reserved: [u8; 16],
}

/// The arrays of a call.
#[derive(Clone, Copy)]
struct Call {
    dsts: In<usize>,
    maxs: In<usize>,
    srcs: In<usize>,
    sizes: In<usize>,
    count: usize,
    attributes: In<Attribute>,
    indexes: In<usize>,
    attribute_count: usize,
}

/// A refusal, and the entry that it is tied to.
type Refused = (Fail, usize);

const NO_ENTRY: usize = usize::MAX;

impl Call {
    fn check(&self, runtime: &Runtime, context: &Context) -> Result<Vec<Run>, Refused> {
        let whole = |fail| (fail, NO_ENTRY);
        let starts = self.attribute_starts().map_err(whole)?;
        let mut runs = Vec::with_capacity(self.count);
        for index in 0..self.count {
            let tied = |fail| (fail, index);
            let run = Run {
                dst: self.dsts.get_at(index).map_err(whole)? as u64,
                src: self.srcs.get_at(index).map_err(whole)? as u64,
                len: self.sizes.get_at(index).map_err(whole)? as u64,
            };
            let max = self.maxs.get_at(index).map_err(whole)? as u64;
            let fits = max >= run.len;
            ensure(fits, code::RT_PARAM_INVALID, || format!("entry {index}: {} bytes into {max}", run.len))
                .map_err(tied)?;
            let attribute = starts.partition_point(|start| *start <= index) - 1;
            let attribute = self.attributes.get_at(attribute).map_err(whole)?;
            check_entry(runtime, context, run, &attribute).map_err(tied)?;
            runs.push(run);
        }
        Ok(runs)
    }

    /// From which entry on each attribute holds: the first from 0, strictly rising.
    fn attribute_starts(&self) -> Done<Vec<usize>> {
        ensure(self.count > 0, code::RT_PARAM_INVALID, || "an empty batch".to_owned())?;
        let sound = (1..=self.count).contains(&self.attribute_count);
        ensure(sound, code::RT_PARAM_INVALID, || format!("{} attributes", self.attribute_count))?;
        let starts = self.indexes.to_vec(self.attribute_count)?;
        let rising = starts.windows(2).all(|pair| pair[0] < pair[1]) && starts.last() < Some(&self.count);
        ensure(starts[0] == 0 && rising, code::RT_PARAM_INVALID, || {
            format!(
                "attributes from {starts:?}; want the first from 0, strictly rising, below {}",
                self.count
            )
        })?;
        Ok(starts)
    }
}

fn check_entry(runtime: &Runtime, context: &Context, run: Run, attribute: &Attribute) -> Done {
    let ends = ends(runtime, context, run)?;
    let mixed = matches!((ends.dst, ends.src), (End::Host, End::Device(_)) | (End::Device(_), End::Host));
    ensure(mixed, code::RT_FEATURE_NOT_SUPPORT, || "a batch copies between host and device only".to_owned())?;
    for (end, location) in [(ends.dst, attribute.dst), (ends.src, attribute.src)] {
        let right = match end {
            End::Host => matches!(location.kind, HOST | UNREGISTERED),
            End::Device(key) => location.kind == DEVICE && runtime.key(location.id as i32).ok() == Some(key),
        };
        ensure(right, code::RT_PARAM_INVALID, || format!("the attribute says {location:?}; it is {end:?}"))?;
    }
    Ok(())
}

/// Checks and copies at once, or on a stream.
///
/// # Safety
/// As the exported functions.
unsafe fn copy(call: Call, fail_index: Out<usize>, stream: Option<usize>) -> Done {
    let op = if stream.is_some() { "aclrtMemcpyBatchAsync" } else { "aclrtMemcpyBatch" };
    let tell = |index| if fail_index.is_null() { Ok(()) } else { fail_index.set(index) };
    tell(NO_ENTRY)?;
    let (context, runtime) = context::usable(op)?;
    let runs = match call.check(runtime, &context) {
        Ok(runs) => runs,
        Err((fail, index)) => {
            tell(index)?;
            return Err(fail);
        }
    };
    match stream {
        // SAFETY: the caller's promise.
        None => unsafe { run(runtime, op, context.key, &runs) },
        // SAFETY: the caller's promise.
        Some(stream) => unsafe { submit(&stream::find(stream)?, op, runs) },
    }
}

crate::export_raw! {
    /// `aclrtMemcpyBatch`: `fail_index` is the entry that was refused, SIZE_MAX when it is none in particular.
    fn sim_aclrtMemcpyBatch(
        dsts: In<usize>, maxs: In<usize>, srcs: In<usize>, sizes: In<usize>, count: usize,
        attributes: In<Attribute>, indexes: In<usize>, attribute_count: usize, fail_index: Out<usize>,
    ) {
        fail_index.check()?;
        let call = Call { dsts, maxs, srcs, sizes, count, attributes, indexes, attribute_count };
        // SAFETY: the caller's promise.
        unsafe { copy(call, fail_index, None) }
    }

    /// `aclrtMemcpyBatchAsync`.
    fn sim_aclrtMemcpyBatchAsync(
        dsts: In<usize>, maxs: In<usize>, srcs: In<usize>, sizes: In<usize>, count: usize,
        attributes: In<Attribute>, indexes: In<usize>, attribute_count: usize, fail_index: Out<usize>, stream: usize,
    ) {
        fail_index.check()?;
        let call = Call { dsts, maxs, srcs, sizes, count, attributes, indexes, attribute_count };
        // SAFETY: the caller's promise.
        unsafe { copy(call, fail_index, Some(stream)) }
    }

    /// `aclrtMemcpyBatchV2`: without the index of what was refused.
    fn sim_aclrtMemcpyBatchV2(
        dsts: In<usize>, maxs: In<usize>, srcs: In<usize>, sizes: In<usize>, count: usize,
        attributes: In<Attribute>, indexes: In<usize>, attribute_count: usize,
    ) {
        let call = Call { dsts, maxs, srcs, sizes, count, attributes, indexes, attribute_count };
        // SAFETY: the caller's promise.
        unsafe { copy(call, Out::null(), None) }
    }

    /// `aclrtMemcpyBatchAsyncV2`.
    fn sim_aclrtMemcpyBatchAsyncV2(
        dsts: In<usize>, maxs: In<usize>, srcs: In<usize>, sizes: In<usize>, count: usize,
        attributes: In<Attribute>, indexes: In<usize>, attribute_count: usize, stream: usize,
    ) {
        let call = Call { dsts, maxs, srcs, sizes, count, attributes, indexes, attribute_count };
        // SAFETY: the caller's promise.
        unsafe { copy(call, Out::null(), Some(stream)) }
    }
}
