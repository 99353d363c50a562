//! Simple kernels for tests: they run on a stream, and take as long as they are told.
//!
//! `ropeway_sim_kernel_late_write` is what a model's last layer does to its KV blocks: it writes a pattern long after
//! it was launched. Whoever reads the blocks without waiting for an event behind it reads the old bytes.

use std::time::Duration;

use super::copy::{Run, ends};
use super::stream;
use crate::context;
use crate::fail::{Done, code, ensure};
use crate::runtime::Runtime;

fn launch(
    handle: usize,
    delay_ms: u32,
    runs: &[Run],
    work: impl FnOnce(&Runtime) -> Done + Send + 'static,
) -> Done {
    let (context, runtime) = context::usable("kernel")?;
    for run in runs {
        ends(runtime, &context, *run)?;
        let both = runtime.hbm.is_device_address(run.dst) && runtime.hbm.is_device_address(run.src);
        ensure(both, code::RT_PARAM_INVALID, || "kernels work on device memory only".to_owned())?;
    }
    stream::find(handle)?.queue.push(Duration::from_millis(delay_ms.into()), move || {
        let done = crate::runtime::runtime().and_then(work);
        done.map_or_else(
            |fail| if fail.code == code::RT_PARAM_INVALID { code::RT_SYS_DMA } else { fail.code },
            |()| 0,
        )
    });
    Ok(())
}

/// The byte that [`ropeway_sim_kernel_late_write`] puts at an offset.
#[must_use]
pub fn pattern(seed: u64, offset: u64) -> u8 {
    (seed.wrapping_add(offset / 8).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (8 * (offset % 8))) as u8
}

crate::export! {
    /// Fills device memory with a byte, `delay_ms` after it reached the head of the stream.
    fn ropeway_sim_kernel_fill(stream: usize, dst: usize, len: usize, value: u8, delay_ms: u32) {
        let (dst, len) = (dst as u64, len as u64);
        launch(stream, delay_ms, &[Run { dst, src: dst, len }], move |runtime| runtime.hbm.fill(dst, value, len))
    }

    /// Copies device memory.
    fn ropeway_sim_kernel_copy(stream: usize, dst: usize, src: usize, len: usize, delay_ms: u32) {
        let run = Run { dst: dst as u64, src: src as u64, len: len as u64 };
        launch(stream, delay_ms, &[run], move |runtime| copy(runtime, run))
    }

    /// Copies rows of device memory.
    fn ropeway_sim_kernel_copy2d(
        stream: usize, dst: usize, dst_pitch: usize, src: usize, src_pitch: usize, width: usize, height: usize,
        delay_ms: u32,
    ) {
        let fits = width <= dst_pitch && width <= src_pitch;
        ensure(fits, code::RT_PARAM_INVALID, || "a row must fit into both pitches".to_owned())?;
        let row = |row: usize| Run {
            dst: (dst + row * dst_pitch) as u64,
            src: (src + row * src_pitch) as u64,
            len: width as u64,
        };
        let rows: Vec<_> = (0..height).map(row).collect();
        let all = rows.clone();
        launch(stream, delay_ms, &rows, move |runtime| all.iter().try_for_each(|run| copy(runtime, *run)))
    }

    /// A late KV write: puts the pattern of `seed` into device memory at the end of `delay_ms`.
    fn ropeway_sim_kernel_late_write(stream: usize, dst: usize, len: usize, seed: u64, delay_ms: u32) {
        let run = Run { dst: dst as u64, src: dst as u64, len: len as u64 };
        launch(stream, delay_ms, &[run], move |runtime| {
            let bytes: Vec<u8> = (0..run.len).map(|offset| pattern(seed, offset)).collect();
            // SAFETY: `bytes` lives until the copy returns, and the other end is device memory.
            unsafe { runtime.hbm.copy(run.dst, bytes.as_ptr() as u64, run.len) }
        })
    }
}

fn copy(runtime: &Runtime, run: Run) -> Done {
    runtime.hbm.pieces(run.dst, run.len)?;
    runtime.hbm.pieces(run.src, run.len)?;
    // SAFETY: both ends are device memory.
    unsafe { runtime.hbm.copy(run.dst, run.src, run.len) }
}

/// Whether the byte at `offset` of what a late write with this seed covers is written already: for tests that look
/// at copies on the host.
#[unsafe(no_mangle)]
pub extern "C" fn ropeway_sim_kernel_pattern(seed: u64, offset: u64) -> u8 {
    pattern(seed, offset)
}
