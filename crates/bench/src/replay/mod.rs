//! The main job on real input: a trace of requests, block pools of bounded size, leases, and a check of every block.

pub(crate) mod blocks;
mod consume;
pub(crate) mod prefill;
mod report;
pub(crate) mod stamps;
pub(crate) mod trace;

use std::fs::File;
use std::io::BufReader;
use std::sync::Arc;
use std::time::Duration;

use crate::Failure;
use crate::cli::{Auth, Op, Replay};
use crate::control::{Answer, Ask};
use crate::engine::{self, Connection, Published};
use crate::model::{self, BLOCK_TOKENS, Shape};
use crate::output;
use crate::pd;
use crate::pool::Pool;
use crate::usage;
use crate::work::{Spec, Work};

use consume::Consumer;
use trace::{Request, Selection, Trace};

pub(crate) fn run(options: &Replay) -> Result<(), Failure> {
    if options.engine.device().is_some() {
        return Err("a replay compares blocks in host memory only; use pd for NPUs".into());
    }
    let requests = load(options)?;
    let shape = model::find(&options.model)?;
    let (producer_blocks, consumer_blocks) = (
        pool_blocks(shape, options.producer_pool, &requests, "--producer-pool")?,
        pool_blocks(shape, options.consumer_pool, &requests, "--consumer-pool")?,
    );
    let memory = pd::memory(options.engine.transport);
    let own = engine::open(&options.engine, None, &Auth::default())?;
    let mut far = pd::start_producer(&options.engine)?;
    let Answer::Hello { descriptor, .. } = far.ask(Ask::Hello)? else {
        return Err("the producer did not say who it is".into());
    };
    let spec = |blocks| Spec::Pool { model: shape.name.to_owned(), blocks };
    far.ask(Ask::Pool { spec: spec(producer_blocks), memory, op: Op::Read })?;
    far.tell(Ask::Publish)?;
    far.tell(Ask::Replay { verify: options.verify })?;
    let work = Work::new(&spec(consumer_blocks))?;
    let pool = Arc::new(Pool::of(memory, work.pool_bytes)?);
    let published = Published::new(&own, &pool, memory, &work.groups)?;
    let connection = Connection::new(&own, &descriptor.parse()?, &published)?;

    let transport = connection.transport();
    let cpu = (usage::cpu_seconds(None)?, far.cpu_seconds()?);
    let consumer = Consumer::new(options, &requests, &work, pool, connection, far);
    let mut tally = consumer.replay(options)?;
    let mut parts = consumer.into_parts();
    tally.consumer_cpu_s = usage::cpu_seconds(None)? - cpu.0;
    tally.producer_cpu_s = parts.far.cpu_seconds()? - cpu.1;
    drop(parts.connection.route);
    if let Answer::Closed { peak_blocks, evicted, leases } = parts.far.ask(Ask::Close)? {
        tally.producer = report::PoolUse { blocks: producer_blocks, peak_blocks, evicted };
        tally.leases = leases;
    }
    published.close()?;
    parts.connection.peer.close(Duration::from_secs(30))?;
    let block_bytes = shape.prompt_bytes(BLOCK_TOKENS);
    report::print(options, &report::Context { transport, requests: &requests, block_bytes }, &tally)
}

/// Reads the trace. Bad lines end the run, unless they are to be skipped; either way each is named.
fn load(options: &Replay) -> Result<Vec<Request>, Failure> {
    let named = |error: std::io::Error| format!("{}: {error}", options.trace.display());
    let file = File::open(&options.trace).map_err(named)?;
    let selection = Selection { limit: options.limit, sample: options.sample };
    let Trace { requests, bad } = trace::read(BufReader::new(file), selection).map_err(named)?;
    for bad in &bad {
        output::complain(format_args!("{}: {bad}", options.trace.display()));
    }
    if !bad.is_empty() && !options.skip_bad {
        return Err(format!("{} bad lines; --skip-bad goes on without them", bad.len()).into());
    }
    if requests.is_empty() {
        return Err(format!("{}: no requests", options.trace.display()).into());
    }
    Ok(requests)
}

/// Blocks of a pool of so many bytes, which must hold the largest request.
fn pool_blocks(shape: &Shape, bytes: u64, requests: &[Request], option: &str) -> Result<u32, Failure> {
    let each = shape.prompt_bytes(BLOCK_TOKENS);
    let blocks = (bytes / each).min(u64::from(u32::MAX)) as u32;
    let largest =
        requests.iter().map(|request| request.input_length.div_ceil(BLOCK_TOKENS)).max().unwrap_or(0);
    if blocks < largest {
        return Err(format!(
            "{option} {bytes} holds {blocks} blocks of {each} bytes; the largest request needs {largest}, that is {} bytes",
            u64::from(largest) * each
        )
        .into());
    }
    Ok(blocks)
}
