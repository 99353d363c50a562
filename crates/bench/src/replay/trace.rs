//! Reads a request trace: JSON lines in the form that Mooncake published its traces in.

use std::collections::HashSet;
use std::fmt;
use std::io::{self, BufRead};

use serde::Deserialize;

/// Tokens that one hash id stands for.
pub(crate) const HASH_TOKENS: u32 = 512;

/// A longer line is refused unread: no prompt has so many blocks.
const LINE_BYTES_MAX: usize = 1 << 20;

/// One request.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub(crate) struct Request {
    /// When it arrived, in ms from the start of the trace.
    pub(crate) timestamp: u64,
    /// Tokens of the prompt.
    pub(crate) input_length: u32,
    /// Tokens of the answer.
    pub(crate) output_length: u32,
    /// One id for each 512 tokens; the same id means the same tokens with the same prefix.
    pub(crate) hash_ids: Vec<u64>,
}

/// A line that is no request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Bad {
    /// Counted from 1.
    pub(crate) line: usize,
    pub(crate) reason: String,
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

/// Which requests to take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Selection {
    pub(crate) limit: Option<usize>,
    /// Every K-th good request, the first included.
    pub(crate) sample: usize,
}

/// What was read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Trace {
    pub(crate) requests: Vec<Request>,
    pub(crate) bad: Vec<Bad>,
}

/// Reads requests until the selection is full or the input ends.
pub(crate) fn read(mut input: impl BufRead, selection: Selection) -> io::Result<Trace> {
    let mut trace = Trace::default();
    let (mut number, mut good, mut latest) = (0, 0usize, 0);
    let mut line = Vec::new();
    while trace.requests.len() < selection.limit.unwrap_or(usize::MAX) {
        line.clear();
        let complete = read_line(&mut input, &mut line)?;
        if line.is_empty() && complete.is_none() {
            break;
        }
        number += 1;
        let parsed = match complete {
            Some(false) => Err(format!("longer than {LINE_BYTES_MAX} bytes")),
            _ if line.trim_ascii().is_empty() => continue,
            _ => parse(&line, latest),
        };
        match parsed {
            Err(reason) => trace.bad.push(Bad { line: number, reason }),
            Ok(request) => {
                latest = request.timestamp;
                if good.is_multiple_of(selection.sample) {
                    trace.requests.push(request);
                }
                good += 1;
            }
        }
    }
    Ok(trace)
}

/// One line without its end. `None` at the end of the input, `false` when the line was too long and was skipped.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Option<bool>> {
    let mut fits = true;
    loop {
        let available = input.fill_buf()?;
        if available.is_empty() {
            return Ok(None);
        }
        let end = available.iter().position(|&byte| byte == b'\n');
        let piece = &available[..end.unwrap_or(available.len())];
        fits &= line.len() + piece.len() <= LINE_BYTES_MAX;
        if fits {
            line.extend_from_slice(piece);
        }
        let used = piece.len() + usize::from(end.is_some());
        input.consume(used);
        if end.is_some() {
            return Ok(Some(fits));
        }
        if !fits {
            line.truncate(1);
        }
    }
}

fn parse(line: &[u8], latest: u64) -> Result<Request, String> {
    let request: Request = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let expected = request.input_length.div_ceil(HASH_TOKENS) as usize;
    if request.input_length == 0 {
        return Err("input_length is 0".to_owned());
    }
    if request.hash_ids.len() != expected {
        return Err(format!(
            "{} hash_ids for {} tokens; there must be {expected}",
            request.hash_ids.len(),
            request.input_length
        ));
    }
    if request.timestamp < latest {
        return Err(format!("timestamp {} is before the request above ({latest})", request.timestamp));
    }
    let mut seen = HashSet::with_capacity(expected);
    match request.hash_ids.iter().find(|&&id| !seen.insert(id)) {
        Some(id) => Err(format!("hash id {id} twice: no prefix can contain itself")),
        None => Ok(request),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: Selection = Selection { limit: None, sample: 1 };

    fn line(timestamp: u64, input_length: u32, first: u64) -> String {
        let ids: Vec<u64> = (first..first + u64::from(input_length.div_ceil(512))).collect();
        format!(
            r#"{{"timestamp": {timestamp}, "input_length": {input_length}, "output_length": 5, "hash_ids": {ids:?}}}"#
        )
    }

    #[test]
    fn good_lines_are_read_and_sampled() {
        let text: Vec<String> = (0..10).map(|i| line(i, 513, i * 2)).collect();
        let text = text.join("\n");
        let all = read(text.as_bytes(), ALL).unwrap();
        assert_eq!((all.requests.len(), all.bad.len()), (10, 0));
        assert_eq!(all.requests[3].hash_ids, [6, 7]);
        let some = read(text.as_bytes(), Selection { limit: Some(3), sample: 4 }).unwrap();
        let times: Vec<u64> = some.requests.iter().map(|request| request.timestamp).collect();
        assert_eq!(times, [0, 4, 8]);
    }

    #[test]
    fn bad_lines_are_named_with_their_reason() {
        let good = line(7, 100, 1);
        let text = [
            good.as_str(),
            "not json",
            &line(3, 100, 1),
            r#"{"timestamp": 9, "input_length": 600, "output_length": 1, "hash_ids": [1]}"#,
            r#"{"timestamp": 9, "input_length": 600, "output_length": 1, "hash_ids": [1, 1]}"#,
            r#"{"timestamp": 9, "input_length": 0, "output_length": 1, "hash_ids": []}"#,
            r#"{"timestamp": -9, "input_length": 1, "output_length": 1, "hash_ids": [1]}"#,
            r#"{"timestamp": 9, "input_length": 1, "hash_ids": [1]}"#,
            "",
            &good,
        ];
        let trace = read(text.join("\n").as_bytes(), ALL).unwrap();
        assert_eq!(trace.requests.len(), 2);
        let lines: Vec<usize> = trace.bad.iter().map(|bad| bad.line).collect();
        assert_eq!(lines, [2, 3, 4, 5, 6, 7, 8]);
        for (bad, part) in trace.bad.iter().zip(["expected", "before", "there must be 2", "twice", "is 0"]) {
            assert!(bad.reason.contains(part), "{bad}");
        }
    }

    #[test]
    fn an_endless_line_is_skipped_and_costs_no_memory() {
        let mut text = vec![b'x'; 5 << 20];
        text.push(b'\n');
        text.extend_from_slice(line(1, 5, 1).as_bytes());
        let trace = read(io::BufReader::new(text.as_slice()), ALL).unwrap();
        assert_eq!(trace.bad, [Bad { line: 1, reason: "longer than 1048576 bytes".to_owned() }]);
        assert_eq!(trace.requests.len(), 1);
    }

    proptest! {
        #[test]
        fn no_input_panics_and_every_line_is_counted(text in "[\\x20-\\x7e\\n]{0,300}") {
            let trace = read(text.as_bytes(), ALL).unwrap();
            let lines = text.lines().filter(|line| !line.trim().is_empty()).count();
            prop_assert_eq!(trace.requests.len() + trace.bad.len(), lines);
        }
    }
}
