//! The engine's limits by name.

use pyo3::prelude::*;
use pyo3::types::PyDict;
use ropeway::Limits;

use crate::fault::{Result, misuse};
use crate::seconds::duration;

macro_rules! limits {
    (numbers { $($number:ident, $with_number:ident;)* } times { $($time:ident, $with_time:ident;)* }) => {
        const NAMES: &[&str] = &[$(stringify!($number),)* $(stringify!($time),)*];

        fn with(limits: Limits, name: &str, value: &Bound<'_, PyAny>) -> Result<Limits> {
            Ok(match name {
                $(stringify!($number) => limits.$with_number(value.extract()?),)*
                $(stringify!($time) => limits.$with_time(duration(name, value.extract()?)?),)*
                _ => return Err(misuse(
                    "open",
                    format!("there is no limit {name:?}; there are {}", NAMES.join(", ")),
                )),
            })
        }

        /// All of them, times in seconds.
        pub(crate) fn as_dict<'py>(py: Python<'py>, limits: &Limits) -> PyResult<Bound<'py, PyDict>> {
            let all = PyDict::new(py);
            $(all.set_item(stringify!($number), limits.$number())?;)*
            $(all.set_item(stringify!($time), limits.$time().as_secs_f64())?;)*
            Ok(all)
        }
    };
}

limits! {
    numbers {
        peers, with_peers;
        regions, with_regions;
        caches, with_caches;
        parts_per_cache, with_parts_per_cache;
        leases, with_leases;
        blocks_per_lease, with_blocks_per_lease;
        grants_per_peer, with_grants_per_peer;
        transfers, with_transfers;
        transfers_per_peer, with_transfers_per_peer;
        runs_per_raw_plan, with_runs_per_raw_plan;
        served_requests_per_peer, with_served_requests_per_peer;
        served_bytes_per_peer, with_served_bytes_per_peer;
        notifications_per_lease, with_notifications_per_lease;
        completions, with_completions;
        handshakes, with_handshakes;
        control_frame_bytes, with_control_frame_bytes;
        copy_threads, with_copy_threads;
        streams, with_streams;
    }
    times {
        lease_ttl, with_lease_ttl;
        first_contact_grace, with_first_contact_grace;
        heartbeat, with_heartbeat;
        abandon_after, with_abandon_after;
        quarantine_fatal_after, with_quarantine_fatal_after;
    }
}

/// The defaults, changed as `changes` says.
pub(crate) fn parse(changes: Option<&Bound<'_, PyDict>>) -> Result<Limits> {
    let mut limits = Limits::default();
    for (name, value) in changes.into_iter().flatten() {
        limits = with(limits, &name.extract::<String>()?, &value)?;
    }
    Ok(limits)
}
