//! What the engine has to say, kept until Python's `logging` takes it. Nothing here waits for the interpreter: events come
//! from threads that hold locks of the engine.

use std::collections::VecDeque;
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// Lines that wait for Python; further ones are counted.
const LINES_MAX: usize = 1024;

/// A level as `logging` numbers it, a logger's name, and the text.
type Line = (u8, String, String);

#[derive(Default)]
struct Waiting {
    lines: VecDeque<Line>,
    dropped: u64,
    closed: bool,
}

static WAITING: Mutex<Waiting> = Mutex::new(Waiting { lines: VecDeque::new(), dropped: 0, closed: false });
static BELL: Condvar = Condvar::new();
/// The process whose `logging` takes the lines; 0 before there is one.
static OWNER: AtomicU32 = AtomicU32::new(0);

fn waiting() -> MutexGuard<'static, Waiting> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins to keep what the engine says, from the level of information on. A forked child says nothing until it calls this
/// itself.
#[pyfunction]
pub(crate) fn keep_log() {
    OWNER.store(std::process::id(), Ordering::Relaxed);
    waiting().closed = false;
    // A program that embeds Python may have a subscriber of its own: then it hears, not `logging`.
    let _ = tracing::subscriber::set_global_default(
        tracing_subscriber::registry().with(LevelFilter::INFO).with(Keeper),
    );
}

/// Waits for lines and gives them: level, name, text. None once `close_log` was called and nothing is left.
#[pyfunction]
pub(crate) fn take_log(py: Python<'_>) -> Option<Vec<Line>> {
    py.detach(|| {
        let mut waiting = waiting();
        while waiting.lines.is_empty() && !waiting.closed {
            waiting = BELL.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        let mut lines: Vec<Line> = waiting.lines.drain(..).collect();
        let dropped = std::mem::take(&mut waiting.dropped);
        if dropped > 0 {
            lines.push((
                30,
                "log".to_owned(),
                format!("{dropped} lines more than could be kept are missing here"),
            ));
        }
        (!lines.is_empty()).then_some(lines)
    })
}

/// Makes `take_log` give what is left, and then None.
#[pyfunction]
pub(crate) fn close_log() {
    waiting().closed = true;
    BELL.notify_all();
}

struct Keeper;

impl<S: Subscriber> Layer<S> for Keeper {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        // The lock may have been held by a thread that a forked child does not have.
        if OWNER.load(Ordering::Relaxed) != std::process::id() {
            return;
        }
        let meta = event.metadata();
        let level = match *meta.level() {
            Level::ERROR => 40,
            Level::WARN => 30,
            Level::INFO => 20,
            Level::DEBUG | Level::TRACE => 10,
        };
        let mut text = Text::default();
        event.record(&mut text);
        let line = (level, logger(meta.target()), text.message + &text.fields);
        let mut waiting = waiting();
        if waiting.lines.len() < LINES_MAX {
            waiting.lines.push_back(line);
            BELL.notify_one();
        } else {
            waiting.dropped += 1;
        }
    }
}

/// A crate's module as a logger's name: `ropeway_connector::worker` is `connector.worker`, `ropeway::engine` is `engine`.
fn logger(target: &str) -> String {
    let name = target.strip_prefix("ropeway").unwrap_or(target);
    name.trim_start_matches(['_', ':']).replace("::", ".")
}

/// The message, and the fields after it as `name=value`.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, ", {name}={value:?}"),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}
