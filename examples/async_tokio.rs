//! Transfers are plain futures: here under tokio, several at once.
//!
//! `cargo run --release --example async_tokio`

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to a person")]

use std::time::Duration;

use ropeway::{BlockId, Engine, Host, LeaseOptions, Rights, Strided, Submit};

const WAIT: Duration = Duration::from_secs(30);
const BLOCK: u64 = 64 << 10;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (producer, consumer) = (Engine::builder().open()?, Engine::builder().open()?);
    let publish = |engine: &Engine| {
        let region = engine.alloc(Host::private(256 * BLOCK))?;
        let cache =
            engine.cache("kv").group("g0", 1).part("layers.0.k", &region, Strided::dense(0, BLOCK, 256));
        Ok::<_, ropeway::Error>((region, cache.publish()?))
    };
    let ((theirs, source), (ours, target)) = (publish(&producer)?, publish(&consumer)?);
    theirs.fill(0, theirs.len(), 7)?;

    let peer = consumer.connect(&producer.descriptor(), WAIT)?.await?;
    let route = peer.route(&target, "kv", WAIT)?.await?;
    let mut requests = tokio::task::JoinSet::new();
    for request in 0..4 {
        let ids: Vec<BlockId> = (request * 64..(request + 1) * 64).map(BlockId).collect();
        let lease = source.lease(&[&ids], Rights::Read, LeaseOptions::default())?;
        let (peer, route) = (peer.clone(), route.clone());
        requests.spawn(async move {
            let grant = peer.claim(&lease.token(), WAIT)?.await?;
            let report = route.read(&grant, &[&ids], &[&ids])?.submit(Submit::default())?.await?;
            drop(grant);
            let freed = lease.freed().await;
            Ok::<_, ropeway::Error>((report, freed))
        });
    }
    while let Some(done) = requests.join_next().await {
        let (report, freed) = done??;
        println!("{} bytes in {:?}; the lease is {:?}", report.bytes, report.elapsed, freed.outcome);
    }
    let mut last = [0];
    ours.read(ours.len() - 1, &mut last)?;
    assert_eq!(last, [7]);
    Ok(())
}
