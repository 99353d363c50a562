//! What connecting costs, with few regions and with many, and what a peer that is gone costs.

use std::time::Instant;

use ropeway_transport::Role;
use serde::Serialize;
use serde_json::Value;

use super::side::{PATIENCE, Side, region_id};
use super::target::Target;
use crate::Failure;
use crate::cli::Experiment;

/// Regions registered before a connect.
const REGIONS: [u32; 2] = [1, 32];
const REGION_BYTES: u64 = 2 << 20;

#[derive(Serialize)]
struct Connect {
    what: String,
    register_ms: f64,
    connect_ms: f64,
    disconnect_ms: f64,
    failed: Option<String>,
}

pub(super) fn run(side: &Side, options: &Experiment) -> Result<(String, Value), Failure> {
    let mut connects = Vec::new();
    let mut slot = 1;
    for regions in REGIONS {
        let mut target = Target::start(options)?;
        let far = target.region(side, REGION_BYTES, 0)?;
        let mut mover = side.mover(&target.offer, Role::Active)?;
        let start = Instant::now();
        for _ in 0..regions {
            let memory = side.region(REGION_BYTES, 0)?;
            mover.register(region_id(slot), &memory)?;
            slot += 1;
        }
        mover.import(far.region, far.len, &far.description)?;
        let register_ms = ms(start);
        let start = Instant::now();
        let failed = mover.connect(PATIENCE).err().map(|error| error.to_string());
        let connect_ms = ms(start);
        let start = Instant::now();
        mover.disconnect(PATIENCE);
        connects.push(Connect {
            what: format!("{regions} regions of ours"),
            register_ms,
            connect_ms,
            disconnect_ms: ms(start),
            failed,
        });
    }
    let mut target = Target::start(options)?;
    let offer = target.offer.clone();
    target.kill()?;
    let mut mover = side.mover(&offer, Role::Active)?;
    let start = Instant::now();
    let failed = mover.connect(PATIENCE).err().map(|error| error.to_string());
    connects.push(Connect {
        what: "a peer that is gone".to_owned(),
        register_ms: 0.0,
        connect_ms: ms(start),
        disconnect_ms: 0.0,
        failed,
    });
    let answer = connects
        .iter()
        .map(|connect| {
            format!(
                "{}: {:.1} ms{}",
                connect.what,
                connect.connect_ms,
                if connect.failed.is_some() { " (failed)" } else { "" }
            )
        })
        .collect::<Vec<_>>()
        .join(", ");
    Ok((format!("connecting takes, {answer}"), serde_json::to_value(&connects)?))
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
