//! The open questions, and which step answers which. docs/HARDWARE.md has the same list, in the same order.

use serde::Serialize;
use serde_json::Value;

use super::Step;

/// A question with what was found.
#[derive(Serialize)]
pub(super) struct Question {
    pub(super) question: &'static str,
    pub(super) answer: String,
    /// Names of the steps that it rests on.
    pub(super) steps: Vec<String>,
}

/// How the answer is taken from the steps whose names begin so.
type Answer = fn(&[&Step]) -> String;

const QUESTIONS: &[(&str, &str, Answer)] = &[
    ("What does destroying a link do to DMA in flight?", "destroy by", said),
    ("What does a transfer to a dead peer end with, and after how long?", "lost by", said),
    ("Which memory do links take: page sizes, virtual memory?", "memory by", said),
    ("What does connecting cost, and a peer that is gone?", "connect by", said),
    ("What does a question to an event cost?", "events by", said),
    ("How fast are blocks of each size, and is there a dip?", "blocks of", rates),
    ("How fast does a prompt move, and is every byte right?", "pd ", prompts),
    ("What is wrong with this machine?", "doctor", wrong),
];

pub(super) fn answer(steps: &[Step]) -> Vec<Question> {
    QUESTIONS
        .iter()
        .map(|&(question, prefix, answer)| {
            let of: Vec<&Step> = steps.iter().filter(|step| step.name.starts_with(prefix)).collect();
            let answer = if of.is_empty() { "not looked at".to_owned() } else { answer(&of) };
            Question { question, answer, steps: of.iter().map(|step| step.name.clone()).collect() }
        })
        .collect()
}

/// What experiments said, each with its step.
fn said(steps: &[&Step]) -> String {
    let each =
        steps.iter().map(|step| match step.printed.iter().find_map(|value| value["answer"].as_str()) {
            Some(answer) => format!("{}: {answer}", step.name),
            None => format!("{}: no answer ({})", step.name, step.ended),
        });
    each.collect::<Vec<_>>().join("; ")
}

fn rates(steps: &[&Step]) -> String {
    let each = steps.iter().filter_map(|step| {
        let value = step.printed.first()?;
        let reps = value["reps"].as_array()?.iter().filter_map(Value::as_f64);
        let best = reps.fold(f64::INFINITY, f64::min);
        let gbps = value["bytes"].as_f64()? / best / 1e9;
        Some(format!("{} {}: {gbps:.1} GB/s", value["workload"].as_str()?, value["op"].as_str()?))
    });
    listed(each, "no block was moved")
}

fn prompts(steps: &[&Step]) -> String {
    let each = steps.iter().filter_map(|step| {
        let value = step.printed.first()?;
        let verified = if value["verified"] == true { "verified" } else { "WRONG" };
        Some(format!(
            "{}: {:.1} GB/s, p50 {:.2} ms, {verified}",
            step.name,
            value["gbps"].as_f64()?,
            value["p50_ms"].as_f64()?
        ))
    });
    listed(each, "no prompt was moved")
}

fn wrong(steps: &[&Step]) -> String {
    let findings = steps
        .iter()
        .flat_map(|step| &step.printed)
        .flat_map(|report| report["findings"].as_array())
        .flatten();
    let wrong = findings.filter(|finding| finding["state"] == "wrong");
    let each = wrong
        .filter_map(|finding| Some(format!("{}: {}", finding["name"].as_str()?, finding["found"].as_str()?)));
    listed(each, "nothing")
}

fn listed(each: impl Iterator<Item = String>, none: &str) -> String {
    let each: Vec<String> = each.collect();
    if each.is_empty() { none.to_owned() } else { each.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &str, printed: Value) -> Step {
        Step {
            name: name.to_owned(),
            command: String::new(),
            seconds: 0.0,
            ended: "exit status: 0".to_owned(),
            good: true,
            printed: vec![printed],
            complaints: String::new(),
        }
    }

    #[test]
    fn each_question_is_answered_by_its_steps() {
        let steps = [
            step("destroy by hixl", serde_json::json!({ "answer": "it quiesces" })),
            step(
                "blocks of 16 KiB, read",
                serde_json::json!({ "workload": "16 KiB", "op": "read", "bytes": 2e9, "reps": [0.5, 0.1] }),
            ),
            step("pd hixl rD2D", serde_json::json!({ "verified": true, "gbps": 12.0, "p50_ms": 1.5 })),
        ];
        let answers: Vec<String> = answer(&steps).into_iter().map(|question| question.answer).collect();
        assert_eq!(answers[0], "destroy by hixl: it quiesces");
        assert_eq!(answers[5], "16 KiB read: 20.0 GB/s");
        assert_eq!(answers[6], "pd hixl rD2D: 12.0 GB/s, p50 1.50 ms, verified");
        assert_eq!(answers[7], "not looked at");
    }

    #[test]
    fn the_page_lists_the_same_questions_in_the_same_order() {
        let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/HARDWARE.md");
        let page = std::fs::read_to_string(page).unwrap();
        let mut rest = page.as_str();
        for (question, ..) in QUESTIONS {
            let at = rest
                .find(question)
                .unwrap_or_else(|| panic!("docs/HARDWARE.md does not ask, in its turn: {question}"));
            rest = &rest[at..];
        }
    }
}
