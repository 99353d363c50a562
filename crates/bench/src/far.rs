//! The producer as the consumer sees it: in this process, in a child, or on another machine.

use std::ffi::OsString;
use std::io::{self, BufReader, BufWriter};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::cli;
use crate::control::{self, Answer, Ask};
use crate::pool::Pool;
use crate::producer::Producer;
use crate::usage;

/// How long a child may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(10);

/// The producer.
pub(crate) enum Far {
    Here(Box<Producer>),
    Child(Spawned),
    There(Remote),
}

/// A producer process that ends with this one.
pub(crate) struct Spawned {
    child: Child,
    /// Taken on drop: the child ends when its input ends.
    to: Option<BufWriter<ChildStdin>>,
    from: BufReader<ChildStdout>,
}

/// A `serve` process.
pub(crate) struct Remote {
    pub(crate) to: BufWriter<TcpStream>,
    pub(crate) from: BufReader<TcpStream>,
}

/// As words of a command line.
fn npu(npu: &cli::Npu) -> Vec<OsString> {
    let mut words = Vec::new();
    for device in &npu.devices {
        words.extend(["--devices".into(), device.to_string().into()]);
    }
    if let Some(cann) = &npu.cann {
        words.extend(["--cann".into(), cann.into()]);
    }
    words.extend(npu.c_api.then(|| "--c-api".into()));
    words
}

impl Far {
    /// Starts this program again as a producer.
    pub(crate) fn spawn(options: &cli::Engine) -> io::Result<Self> {
        let parent = std::process::id();
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("producer")
            .args(["--transport", options.transport.name()])
            .args(["--copy-threads", &options.copy_threads.to_string()])
            .args(["--streams", &options.streams.to_string()])
            .args(["--parent", &parent.to_string()])
            .args(npu(&options.of_producer().npu))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        // SAFETY: runs in the child between fork and exec, where it may only call what is async-signal-safe: prctl is.
        unsafe { command.pre_exec(end_with_parent) };
        let mut child = command.spawn()?;
        let to = child.stdin.take().map(BufWriter::new);
        let from = BufReader::new(child.stdout.take().expect("the child's output is piped"));
        Ok(Self::Child(Spawned { child, to, from }))
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// The producer's own words, or that it is gone.
    pub(crate) fn ask(&mut self, ask: Ask) -> Result<Answer, Failure> {
        let answer = match self {
            Self::Here(producer) => producer.answer(ask),
            Self::Child(Spawned { to: Some(to), from, child }) => {
                let answer = control::send(to, &ask).and_then(|()| control::receive(from));
                match answer {
                    Ok(Some(answer)) => answer,
                    broken => return Err(gone(child, broken)),
                }
            }
            Self::Child(Spawned { to: None, .. }) => return Err("the producer was closed".into()),
            Self::There(Remote { to, from }) => {
                control::send(to, &ask)?;
                control::receive(from)?.ok_or("the producer closed the control connection")?
            }
        };
        match answer {
            Answer::Failed { reason } => Err(format!("producer: {reason}").into()),
            answer => Ok(answer),
        }
    }

    /// Asks for something that is answered with `Ok`.
    pub(crate) fn tell(&mut self, ask: Ask) -> Result<(), Failure> {
        match self.ask(ask)? {
            Answer::Ok => Ok(()),
            other => Err(format!("unexpected answer {other:?}").into()),
        }
    }

    /// CPU seconds of the producer's process; 0 when that is this one.
    pub(crate) fn cpu_seconds(&mut self) -> Result<f64, Failure> {
        match self {
            Self::Here(_) => Ok(0.0),
            Self::Child(spawned) => Ok(usage::cpu_seconds(Some(spawned.child.id() as i32))?),
            Self::There(_) => match self.ask(Ask::Cpu)? {
                Answer::Cpu { seconds } => Ok(seconds),
                other => Err(format!("unexpected answer {other:?}").into()),
            },
        }
    }

    /// The failure as its cause: where the producer process has ended, everything else follows from that.
    pub(crate) fn explain(&mut self, failure: Failure) -> Failure {
        match self {
            Self::Child(spawned) => match ended(&mut spawned.child) {
                Some(status) => format!("the producer process ended: {status}; then: {failure}").into(),
                None => failure,
            },
            _ => failure,
        }
    }

    /// The producer's pool, where it is in this process.
    pub(crate) fn pool(&self) -> Option<Arc<Pool>> {
        match self {
            Self::Here(producer) => producer.pool(),
            _ => None,
        }
    }
}

/// In a child: the kernel kills it when the thread that started it ends.
fn end_with_parent() -> io::Result<()> {
    // SAFETY: takes no pointers.
    match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Why a child does not answer: how it ended, if it did.
fn gone(child: &mut Child, broken: io::Result<Option<Answer>>) -> Failure {
    match (ended(child), broken) {
        (Some(status), _) => format!("the producer process ended: {status}").into(),
        (None, Err(error)) => format!("the producer's answer is broken: {error}").into(),
        (None, Ok(_)) => "the producer closed its output".into(),
    }
}

/// How a child ended. Its sockets break a moment before that can be told.
fn ended(child: &mut Child) -> Option<ExitStatus> {
    let until = Instant::now() + Duration::from_secs(1);
    while Instant::now() < until {
        match child.try_wait() {
            Ok(None) => std::thread::sleep(Duration::from_millis(5)),
            ended => return ended.ok().flatten(),
        }
    }
    None
}

impl Drop for Spawned {
    fn drop(&mut self) {
        drop(self.to.take());
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            match self.child.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(2)),
                _ => return,
            }
        }
        // Best effort: it is killed with this process anyway.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
