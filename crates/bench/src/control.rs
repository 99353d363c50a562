//! What the benchmark's two processes say to each other beside the engine: one JSON object a line, length capped.

use std::io::{self, BufRead, Read, Write};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::cli::{Op, Verify};
use crate::replay::blocks::Want;
use crate::work::Spec;

/// A longer line ends the conversation.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// From the consumer to the producer. Every request has one answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ask {
    /// How to reach the producer's engine.
    Hello,
    /// Make the pool for this work. One pool at a time: an earlier one is closed.
    Pool { spec: Spec, memory: Memory, op: Op },
    /// Register the pool and publish its cache.
    Publish,
    /// Fill the pool as a source.
    Fill { seed: u64 },
    /// Make the pool a destination that nobody has written to.
    Poison,
    /// Compare every byte of the pool as a destination.
    Verify { seed: u64 },
    /// Lease the blocks of a request.
    Lease { request: usize },
    /// Wait until every lease is free.
    Settle,
    /// CPU seconds so far.
    Cpu,
    /// Listen for the reference's sockets, serve the work's list on them.
    Stream { streams: u32 },
    /// Answer pings of the reference on one socket.
    Pong,
    /// Become the producer of a replay.
    Replay { verify: Verify },
    /// Prefill a prompt: hash ids with their blocks, and for each whether the consumer wants it.
    Prefill { id: u64, wants: Vec<Want>, missing: Vec<u64> },
    /// The consumer has what it wanted.
    Done { id: u64 },
    /// Close pools and leases; what is left over is an error.
    Close,
}

/// From the producer to the consumer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Ok,
    Hello {
        descriptor: String,
        pid: i32,
    },
    /// Where the pool is: for the reference, on the same host.
    Pool {
        base: u64,
        file: Option<i32>,
        bytes: u64,
    },
    Lease {
        token: String,
    },
    Cpu {
        seconds: f64,
    },
    Listening {
        port: u16,
    },
    Prefilled {
        token: Option<String>,
        blocks: Vec<u32>,
        generations: Vec<u32>,
    },
    /// No room now: ask again after a `Done`.
    Full,
    /// Blocks of the replay's pool held at most, entries evicted, leases given.
    Closed {
        peak_blocks: u32,
        evicted: u64,
        leases: u64,
    },
    Failed {
        reason: String,
    },
}

/// Which kind of memory the pools are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Memory {
    /// In a memfd, which a peer on the host can map.
    Shared,
    /// Of one process.
    Private,
    /// In an NPU's HBM.
    Device,
    /// Host memory that an NPU's links can reach.
    Pinned,
}

/// Writes one message.
pub(crate) fn send(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    to.write_all(&line)?;
    to.flush()
}

/// Reads one message; `None` when the other side has closed.
pub(crate) fn receive<T: DeserializeOwned>(from: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    from.take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(serde_json::from_slice(&line)?)),
        Some(_) if line.len() as u64 == LINE_BYTES_MAX => {
            Err(io::Error::other(format!("a control message is longer than {LINE_BYTES_MAX} bytes")))
        }
        Some(_) => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_as_they_went() {
        let mut wire = Vec::new();
        send(&mut wire, &Ask::Lease { request: 3 }).unwrap();
        send(&mut wire, &Ask::Hello).unwrap();
        let mut wire = wire.as_slice();
        assert!(matches!(receive(&mut wire).unwrap(), Some(Ask::Lease { request: 3 })));
        assert!(matches!(receive(&mut wire).unwrap(), Some(Ask::Hello)));
        assert!(receive::<Ask>(&mut wire).unwrap().is_none());
    }

    #[test]
    fn torn_and_endless_lines_are_errors() {
        assert!(receive::<Ask>(&mut &b"{\"hello"[..]).is_err());
        assert!(receive::<Ask>(&mut &b"{\"nonsense\":1}\n"[..]).is_err());
        let mut endless = io::BufReader::new(io::repeat(b'x'));
        assert!(receive::<Ask>(&mut endless).is_err());
    }
}
