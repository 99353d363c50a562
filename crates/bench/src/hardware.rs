//! `hardware`: everything that an owner of NPUs can find out for us, in one report.
//!
//! Each step is this program again, in a process of its own with a time limit: one that hangs or crashes is noted, and the
//! rest goes on.

mod questions;

use std::fs;
use std::io::Read;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use crate::Failure;
use crate::cli::{ExperimentName, Hardware};
use crate::output;
use crate::workload;

/// Of the report's format.
const VERSION: u32 = 1;
/// Block sizes that are measured: those of the published figures, and one beyond.
const BLOCKS: [u64; 9] =
    [16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20, 2 << 20, 8 << 20];
/// Bytes of each such batch, as published.
const BATCH: u64 = 128 << 20;
/// The kernel gives a killed child's pipes back at once; a child of its own may hold them a little longer.
const OUTPUT_BYTES_MAX: u64 = 16 << 20;

/// The report.
#[derive(Serialize)]
struct Report {
    report: &'static str,
    version: u32,
    ropeway: &'static str,
    /// The CANN is the software one: the report is a test of the command, and says nothing about an NPU.
    simulated: bool,
    /// What each open question came to.
    questions: Vec<questions::Question>,
    /// What the conformance suite said; `null` where it was not run.
    conformance: Option<Vec<String>>,
    steps: Vec<Step>,
}

/// One run of this program.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Step {
    pub(crate) name: String,
    pub(crate) command: String,
    pub(crate) seconds: f64,
    pub(crate) ended: String,
    pub(crate) good: bool,
    /// What it printed: JSON where it was JSON.
    pub(crate) printed: Vec<Value>,
    /// The last of what it complained of.
    pub(crate) complaints: String,
}

/// A run to be made.
struct Order {
    name: String,
    words: Vec<String>,
    limit: Duration,
}

pub(crate) fn run(options: &Hardware) -> Result<ExitCode, Failure> {
    let folder = tempfile(options)?;
    let orders = orders(options, &folder)?;
    let bar = output::progress(orders.len() as u64, "finding out");
    let mut steps = Vec::new();
    for order in orders {
        bar.set_message(order.name.clone());
        steps.push(step(order)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    fs::remove_dir_all(&folder)?;
    let conformance = options.conformance.as_ref().map(fs::read_to_string).transpose()?;
    let report = Report {
        report: "ropeway hardware",
        version: VERSION,
        ropeway: env!("CARGO_PKG_VERSION"),
        simulated: steps.iter().flat_map(|step| &step.printed).any(|value| value["simulated"] == true),
        questions: questions::answer(&steps),
        conformance: conformance.map(|text| text.lines().map(str::to_owned).collect()),
        steps,
    };
    fs::write(&options.report, serde_json::to_string_pretty(&report)? + "\n")?;
    report.print(options)?;
    let good = report.steps.iter().all(|step| step.good);
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A folder of our own for lists of copies.
fn tempfile(options: &Hardware) -> Result<std::path::PathBuf, Failure> {
    let folder = options.report.with_extension(format!("{}.tmp", std::process::id()));
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn orders(options: &Hardware, folder: &std::path::Path) -> Result<Vec<Order>, Failure> {
    let quick = options.quick;
    let mut npu: Vec<String> = Vec::new();
    if let Some(cann) = &options.npu.cann {
        npu.extend(["--cann".to_owned(), cann.display().to_string()]);
    }
    let mut orders = vec![order("doctor", &["doctor", "--json"], &npu, 300)];
    let devices: Vec<String> = options.npu.devices.iter().map(u32::to_string).collect();
    if !devices.is_empty() {
        npu.extend(["--devices".to_owned(), devices.join(",")]);
    }
    // What decides most comes first.
    let (bytes, watch) = if quick { ("67108864", "500") } else { ("2147483648", "40000") };
    let ways: &[&str] = if quick { &["hixl"] } else { &["hixl", "hixl-c"] };
    for way in ways {
        for name in ExperimentName::ALL {
            let words = ["experiment", name.name(), "--way", way, "--bytes", bytes, "--watch-ms", watch];
            orders.push(order(&format!("{} by {way}", name.name()), &words, &npu, 420));
        }
    }
    for (transport, direction) in [
        ("hixl", "rD2D"),
        ("hixl", "D2rD"),
        ("hixl", "rD2H"),
        ("hixl", "H2rD"),
        ("ipc", "rD2D"),
        ("ipc", "D2rD"),
        ("hccl", "rD2D"),
    ] {
        let tokens = if quick { "256" } else { "8192" };
        let words = [
            "pd",
            "--transport",
            transport,
            "--direction",
            direction,
            "--tokens",
            tokens,
            "--no-reference",
            "--json",
        ];
        orders.push(order(&format!("pd {transport} {direction}"), &words, &npu, 300));
        if quick && transport == "hixl" && direction == "D2rD" {
            break;
        }
    }
    for op in ["read", "write"] {
        for block in BLOCKS.into_iter().filter(|block| !quick || *block == 128 << 10) {
            orders.push(rate(folder, op, block, if quick { 4 << 20 } else { BATCH }, &npu)?);
        }
    }
    Ok(orders)
}

/// Equal blocks in an order of its own on each side, so that nothing can be merged.
fn rate(
    folder: &std::path::Path,
    op: &str,
    block: u64,
    bytes: u64,
    npu: &[String],
) -> Result<Order, Failure> {
    let list = workload::scattered(block, (bytes / block) as usize, bytes, &mut workload::Draw::new(block));
    let list: Vec<u8> =
        list.iter().flat_map(|copy| [copy.local, copy.remote, copy.len]).flat_map(u64::to_le_bytes).collect();
    let file = folder.join(format!("{block}.u64"));
    fs::write(&file, list)?;
    let (file, pool, name) = (file.display().to_string(), bytes.to_string(), output::block(block));
    let words = [
        "run",
        "--transport",
        "hixl",
        "--desc",
        &file,
        "--pool",
        &pool,
        "--op",
        op,
        "--reps",
        "10",
        "--name",
        &name,
    ];
    Ok(order(&format!("blocks of {name}, {op}"), &words, npu, 120))
}

fn order(name: &str, words: &[&str], npu: &[String], limit_s: u64) -> Order {
    let words = words.iter().map(|word| (*word).to_owned()).chain(npu.iter().cloned()).collect();
    Order { name: name.to_owned(), words, limit: Duration::from_secs(limit_s) }
}

/// Runs it to its end, or kills it at its limit.
fn step(order: Order) -> Result<Step, Failure> {
    let start = Instant::now();
    let mut child = Command::new(std::env::current_exe()?)
        .args(&order.words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let out = collect(child.stdout.take().expect("the child's output is piped"));
    let err = collect(child.stderr.take().expect("the child's complaints are piped"));
    let ended = loop {
        match child.try_wait()? {
            Some(status) => break Some(status),
            None if start.elapsed() > order.limit => {
                child.kill()?;
                child.wait()?;
                break None;
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let (out, err) = (out.join().unwrap_or_default(), err.join().unwrap_or_default());
    let printed =
        out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| Value::String(line.to_owned())));
    // The doctor's findings are in what it printed.
    let good =
        ended.is_some_and(|status| status.success() || order.name == "doctor" && status.code() == Some(1));
    Ok(Step {
        printed: printed.collect(),
        command: format!("ropeway-bench {}", order.words.join(" ")),
        name: order.name,
        seconds: start.elapsed().as_secs_f64(),
        ended: ended.map_or_else(|| format!("killed after {:?}", order.limit), |status| status.to_string()),
        good,
        complaints: tail(&err),
    })
}

fn collect(from: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = Vec::new();
        // What came before an error is worth keeping.
        let _ = from.take(OUTPUT_BYTES_MAX).read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    })
}

/// The last lines: a library may have said a lot.
fn tail(text: &str) -> String {
    const LINES: usize = 40;
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

impl Report {
    fn print(&self, options: &Hardware) -> Result<(), Failure> {
        if self.simulated {
            output::line("SIMULATED: this is the software CANN; the report says nothing about an NPU.")?;
        }
        for question in &self.questions {
            output::line(format_args!("\n{}\n  {}", question.question, question.answer))?;
        }
        let failed: Vec<&Step> = self.steps.iter().filter(|step| !step.good).collect();
        for step in &failed {
            let said = step.complaints.lines().last().unwrap_or_default();
            output::line(format_args!("\nFAILED {}: {} {said}", step.name, step.ended))?;
        }
        output::line(format_args!(
            "\n{} of {} steps went well; the report is {}",
            self.steps.len() - failed.len(),
            self.steps.len(),
            options.report.display()
        ))?;
        Ok(())
    }
}
