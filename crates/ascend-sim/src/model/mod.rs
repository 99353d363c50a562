//! The link model: completion times after HIXL's published block-size curves. Whatever comes of it is *simulated*.

mod curve;
mod table;

pub use curve::{Direction, Figures, Link, Mode, Scope};

use std::ffi::{CStr, c_char};

use crate::topology::Chip;

/// What a program prints beside any figure that it took on this library.
const LABEL: &CStr =
    c"simulated: completion times follow HIXL's published bandwidth curves (benchmarks/performance_en.md, \
2026-08-22, A2 and A3; one straight line between two block sizes); 950, UB, ipc and hccl are not timed";

/// Tells that figures taken on this library are simulated, and after what. Lives for ever; no real CANN exports it.
#[unsafe(no_mangle)]
pub extern "C" fn ropeway_sim_figures() -> *const c_char {
    LABEL.as_ptr()
}

/// Predicted seconds for `count` blocks of `bytes` over a link, after the published curves; negative when there is no
/// figure. `chip` "a2" or "a3"; `link` "hccs", "roce" or "fabric"; `mode` "cs", "comm", "aicpu" or "host"; `direction`
/// as HIXL's benchmark names it.
///
/// # Safety
/// All four strings end in NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ropeway_sim_link_seconds(
    chip: *const c_char,
    hosts: u32,
    link: *const c_char,
    mode: *const c_char,
    direction: *const c_char,
    bytes: u64,
    count: u64,
) -> f64 {
    // SAFETY: the caller promises strings that end in NUL.
    let [chip, link, mode, direction] = [chip, link, mode, direction].map(|text| unsafe { words(text) });
    let figures = (|| {
        let chip = match chip? {
            "a2" => Chip::A2,
            "a3" => Chip::A3,
            _ => return None,
        };
        let link = match link? {
            "hccs" => Link::Hccs,
            "roce" => Link::Roce,
            "fabric" => Link::Fabric,
            _ => return None,
        };
        let mode = match mode? {
            "cs" => Mode::ClientServer,
            "comm" => Mode::Communicator,
            "aicpu" => Mode::FabricAicpu,
            "host" => Mode::FabricHost,
            _ => return None,
        };
        let scope = if hosts > 1 { Scope::TwoHosts } else { Scope::OneHost };
        Figures::find(chip, scope, link, mode, Direction::from_name(direction?)?)
    })();
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
    figures.map_or(-1.0, |figures| figures.nanoseconds(bytes) * count as f64 / 1e9)
}

/// A C string as text; nothing for NULL or bytes that are no UTF-8.
///
/// # Safety
/// `text` is NULL or ends in NUL, and lives for `'a`.
unsafe fn words<'a>(text: *const c_char) -> Option<&'a str> {
    if text.is_null() {
        return None;
    }
    // SAFETY: not NULL, and the caller promises the end.
    unsafe { CStr::from_ptr(text) }.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::{Chip, Direction, Figures, Link, Mode, Scope};

    fn rate(figures: Figures, bytes: u64) -> f64 {
        bytes as f64 / figures.nanoseconds(bytes)
    }

    #[test]
    fn published_points_come_out_as_published() {
        let a3 =
            Figures::find(Chip::A3, Scope::OneHost, Link::Hccs, Mode::ClientServer, Direction::D2rD).unwrap();
        for (bytes, expected) in [(16_384, 18.018), (65_536, 70.133), (2_097_152, 164.61)] {
            assert!((rate(a3, bytes) - expected).abs() < 0.001, "{bytes}: {}", rate(a3, bytes));
        }
        let a2 =
            Figures::find(Chip::A2, Scope::OneHost, Link::Roce, Mode::Communicator, Direction::D2rD).unwrap();
        assert!((rate(a2, 65_536) - 2.84).abs() < 0.001);
    }

    #[test]
    fn between_two_published_sizes_the_time_lies_between_theirs() {
        let figures =
            Figures::find(Chip::A3, Scope::OneHost, Link::Roce, Mode::Communicator, Direction::D2rD).unwrap();
        for row in 0..7 {
            let low = 16_384_u64 << row;
            let (from, to) = (figures.nanoseconds(low), figures.nanoseconds(low * 2));
            let middle = figures.nanoseconds(low + low / 2);
            assert!((middle - (from + to) / 2.0).abs() < 1e-6, "{low}");
        }
        let (tiny, smallest) = (figures.nanoseconds(16), figures.nanoseconds(16_384));
        assert!(
            tiny < smallest && tiny > smallest / 3.0,
            "a descriptor costs whatever its size: {tiny} {smallest}"
        );
        assert!((figures.nanoseconds(8 << 20) - 4.0 * figures.nanoseconds(2 << 20)).abs() < 1e-6);
    }

    #[test]
    fn remote_host_memory_over_hccs_has_no_figure() {
        let find =
            |chip, direction| Figures::find(chip, Scope::OneHost, Link::Hccs, Mode::ClientServer, direction);
        assert!(find(Chip::A3, Direction::D2rH).is_none());
        assert!(find(Chip::A2, Direction::H2rD).is_none());
        assert!(find(Chip::A3, Direction::H2rD).is_some());
    }
}
