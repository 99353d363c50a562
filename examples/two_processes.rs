//! A producer process and a consumer process exchange blocks; run it with no argument, it starts the other one itself.
//!
//! `cargo run --release --example two_processes`

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to a person")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use ropeway::{BlockId, Cache, Engine, Host, LeaseOptions, Region, Rights, Strided, Submit};

const WAIT: Duration = Duration::from_secs(30);
const BLOCK: u64 = 128 << 10;

fn open() -> ropeway::Result<(Engine, Region, Cache)> {
    let engine = Engine::builder().listen(([127, 0, 0, 1], 0).into()).open()?;
    let region = engine.alloc(Host::shared(64 * BLOCK))?;
    let cache = engine.cache("kv").group("g0", 1).part("layers.0.k", &region, Strided::dense(0, BLOCK, 64));
    Ok((engine, region, cache.publish()?))
}

fn producer() -> Result<(), Box<dyn std::error::Error>> {
    let (engine, region, cache) = open()?;
    region.fill(7 * BLOCK, 2 * BLOCK, 42)?; // a prefill has filled blocks 7 and 8
    let lease = cache.lease(&[&[BlockId(7), BlockId(8)]], Rights::Read, LeaseOptions::default())?;
    println!("{}\n{}", engine.descriptor(), lease.token()); // a router would carry these two strings
    let freed = lease.wait_free(WAIT).ok_or("nobody came")?;
    eprintln!("producer: blocks 7 and 8 are free again: {:?}", freed.outcome);
    Ok(())
}

fn consumer() -> Result<(), Box<dyn std::error::Error>> {
    let mut child = Command::new(std::env::current_exe()?).arg("producer").stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().ok_or("no pipe")?).lines();
    let mut next =
        || lines.next().ok_or("the producer said nothing")?.map_err(Box::<dyn std::error::Error>::from);
    let (descriptor, token) = (next()?.parse()?, next()?.parse()?);

    let (engine, region, cache) = open()?;
    let peer = engine.connect(&descriptor, WAIT)?.wait()?;
    let grant = peer.claim(&token, WAIT)?.wait()?;
    let route = peer.route(&cache, "kv", WAIT)?.wait()?;
    let plan = route.read(&grant, &[&[BlockId(0), BlockId(1)]], &[&[BlockId(7), BlockId(8)]])?;
    let report = plan.submit(Submit::default())?.wait(WAIT).ok_or("not done in time")??;

    let mut bytes = vec![0; 2 * BLOCK as usize];
    region.read(0, &mut bytes)?;
    assert!(bytes.iter().all(|byte| *byte == 42));
    writeln!(
        std::io::stdout(),
        "consumer: {} bytes over {} in {:?}",
        report.bytes,
        report.transport,
        report.elapsed
    )?;
    drop((plan, grant)); // releases the lease: the producer may reuse its blocks
    child.wait()?;
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if std::env::args().nth(1).as_deref() == Some("producer") { producer() } else { consumer() }
}
