//! Completion times after the published curves. What is asserted is that nothing is faster than its figure, with bytes left
//! out, so that nothing else takes time.

mod links;

use std::ffi::CStr;
use std::time::{Duration, Instant};

use ascend_sim::model::{
    Direction, Figures, Link, Mode, Scope, ropeway_sim_figures, ropeway_sim_link_seconds,
};
use ascend_sim::topology::Chip;
use links::*;

const BLOCK: u64 = 16 << 10;

/// Descriptors of 16 KiB over 4 MiB, `times` over.
fn blocks(two: &Two, times: u64) -> Vec<SimHixlDesc> {
    (0..256 * times).map(|i| two.desc(i % 256 * BLOCK, BLOCK)).collect()
}

fn figure(mode: Mode, count: usize) -> Duration {
    let figures = Figures::find(Chip::A2, Scope::OneHost, Link::Hccs, mode, Direction::D2rD).unwrap();
    Duration::from_secs_f64(figures.nanoseconds(BLOCK) * count as f64 / 1e9)
}

#[test]
fn a_transfer_takes_at_least_what_its_curve_says() {
    machine("a2", r#","timing":"model","move_data":false"#);
    for (mode, options) in [(Mode::ClientServer, CLIENT_SERVER), (Mode::Communicator, ("BufferPool", "0:0"))]
    {
        let two = Two::linked(&[options]);
        let descs = blocks(&two, 8);
        let expected = figure(mode, descs.len());
        assert!(expected > Duration::from_millis(3));
        let start = Instant::now();
        assert_eq!(two.near.sync(&two.far, WRITE, &descs, PATIENCE), SUCCESS);
        assert!(start.elapsed() >= expected, "{mode:?}: {:?} < {expected:?}", start.elapsed());
    }
}

#[test]
fn transfers_of_one_link_follow_one_another() {
    machine("a2", r#","timing":"model","move_data":false"#);
    let two = Two::linked(&[CLIENT_SERVER]);
    let descs = blocks(&two, 16);
    let start = Instant::now();
    let requests: Vec<usize> = (0..4).map(|_| two.near.post(&two.far, WRITE, &descs, 0).unwrap()).collect();
    for request in requests {
        assert_eq!(two.near.end(request), COMPLETED);
    }
    assert!(start.elapsed() >= figure(Mode::ClientServer, descs.len() * 4));
}

#[test]
fn a_timeout_shorter_than_the_figure_is_a_timeout() {
    machine("a2", r#","timing":"model","move_data":false"#);
    let two = Two::linked(&[("BufferPool", "0:0")]);
    // 0.7 s at 1.5 GB/s.
    let descs = blocks(&two, 256);
    assert_eq!(two.near.sync(&two.far, WRITE, &descs, 20), TIMEOUT);
}

#[test]
fn figures_say_that_they_are_simulated() {
    // SAFETY: the text lives for ever.
    let text = unsafe { CStr::from_ptr(ropeway_sim_figures()) }.to_str().unwrap();
    assert!(text.starts_with("simulated:"), "{text}");
    let seconds = |chip: &CStr, link: &CStr| {
        let (mode, direction) = (c"cs".as_ptr(), c"D2rD".as_ptr());
        // SAFETY: all are C strings.
        unsafe { ropeway_sim_link_seconds(chip.as_ptr(), 1, link.as_ptr(), mode, direction, 2 << 20, 1000) }
    };
    let gb_per_s = 1000.0 * f64::from(2 << 20) / seconds(c"a3", c"hccs") / 1e9;
    assert!((gb_per_s - 164.61).abs() < 0.01, "{gb_per_s}");
    assert!(seconds(c"950", c"hccs") < 0.0);
}
