//! What one question to an event costs: the poller asks them all again and again.

use std::sync::Arc;
use std::time::Instant;

use ropeway_ascend::{Bound, Device, Event, Stream, Work};
use serde::Serialize;
use serde_json::Value;

use super::side::Side;
use crate::Failure;

const QUERIES: u32 = 10_000;

#[derive(Serialize)]
struct Costs {
    create_us: f64,
    record_us: f64,
    query_ns: f64,
}

pub(super) fn run(side: &Side) -> Result<(String, Value), Failure> {
    let device = Arc::clone(side.npu.device());
    let costs = side.npu.device().call(Work::Slow, "measure events", move |on| measure(&device, on))??;
    let answer = format!(
        "a question to an event takes {:.0} ns, recording it {:.1} µs",
        costs.query_ns, costs.record_us
    );
    Ok((answer, serde_json::to_value(&costs)?))
}

fn measure(device: &Arc<Device>, on: &Bound<'_>) -> ropeway::Result<Costs> {
    let stream = Stream::create(device, on)?;
    let start = Instant::now();
    let event = Event::create(device, on)?;
    let create_us = start.elapsed().as_secs_f64() * 1e6;
    let start = Instant::now();
    stream.record(on, &event)?;
    let record_us = start.elapsed().as_secs_f64() * 1e6;
    let start = Instant::now();
    for _ in 0..QUERIES {
        std::hint::black_box(event.has_fired(on)?);
    }
    let query_ns = start.elapsed().as_secs_f64() * 1e9 / f64::from(QUERIES);
    Ok(Costs { create_us, record_us, query_ns })
}
