//! `doctor`: what this machine has, what is wrong with it, and how to mend it.

mod ascend;
mod host;
mod memory;
mod network;

use std::fmt;
use std::io;
use std::process::ExitCode;

use ropeway_ascend::node::Machine;
use serde::Serialize;

use crate::Failure;
use crate::cli::Doctor;
use crate::output;

/// Nothing is wrong, but there is no CANN, so there are no NPU transports.
const NO_CANN: u8 = 3;

/// What a finding means.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// As it should be.
    Good,
    /// Works; worth knowing, or worth mending for speed.
    Note,
    /// Something does not work because of it.
    Wrong,
    /// Not there, and all that needs it is left out.
    Absent,
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Finding {
    pub(crate) area: &'static str,
    pub(crate) name: String,
    pub(crate) state: State,
    /// What was found.
    pub(crate) found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mend: Option<String>,
}

/// Everything that was looked at; the names are those of the JSON object.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) command: &'static str,
    pub(crate) version: &'static str,
    /// Whether the CANN is the software one: then no figure says anything about an NPU.
    pub(crate) simulated: bool,
    pub(crate) findings: Vec<Finding>,
}

pub(crate) fn run(options: &Doctor) -> Result<ExitCode, Failure> {
    let report = Report::of(options);
    if options.json {
        output::json_line(&report)?;
    } else {
        report.print()?;
    }
    Ok(report.exit())
}

impl Report {
    /// Looks at everything. Takes about a second.
    pub(crate) fn of(options: &Doctor) -> Self {
        let machine = Machine::here();
        let mut findings = host::look(&machine);
        findings.extend(memory::look(&machine));
        findings.extend(network::look(&machine));
        let mut simulated = false;
        if !options.host_only {
            let ascend = ascend::look(&machine, options.cann.as_deref());
            simulated = ascend.simulated;
            findings.extend(ascend.findings);
        }
        Self { command: "doctor", version: env!("CARGO_PKG_VERSION"), simulated, findings }
    }

    fn count(&self, state: State) -> usize {
        self.findings.iter().filter(|finding| finding.state == state).count()
    }

    fn exit(&self) -> ExitCode {
        match (self.count(State::Wrong), self.count(State::Absent)) {
            (0, 0) => ExitCode::SUCCESS,
            (0, _) => ExitCode::from(NO_CANN),
            _ => ExitCode::FAILURE,
        }
    }

    fn print(&self) -> io::Result<()> {
        if self.simulated {
            output::line("SIMULATED: this is the software CANN; nothing below says anything about an NPU.")?;
        }
        let mut area = "";
        for finding in &self.findings {
            if finding.area != area {
                area = finding.area;
                output::line(format_args!("\n{area}"))?;
            }
            output::line(finding)?;
        }
        let count = |state| self.count(state);
        output::line(format_args!(
            "\n{} wrong, {} to know, {} absent, {} good",
            count(State::Wrong),
            count(State::Note),
            count(State::Absent),
            count(State::Good)
        ))
    }
}

impl Finding {
    pub(crate) fn good(area: &'static str, name: impl Into<String>, found: impl fmt::Display) -> Self {
        Self { area, name: name.into(), state: State::Good, found: found.to_string(), mend: None }
    }

    pub(crate) fn note(
        area: &'static str,
        name: impl Into<String>,
        found: impl fmt::Display,
        mend: impl Into<String>,
    ) -> Self {
        Self { state: State::Note, mend: Some(mend.into()), ..Self::good(area, name, found) }
    }

    pub(crate) fn wrong(
        area: &'static str,
        name: impl Into<String>,
        found: impl fmt::Display,
        mend: impl Into<String>,
    ) -> Self {
        Self { state: State::Wrong, mend: Some(mend.into()), ..Self::good(area, name, found) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.state {
            State::Good => "  ok    ",
            State::Note => "  note  ",
            State::Wrong => "  WRONG ",
            State::Absent => "  none  ",
        };
        write!(f, "{mark}{:<24} {}", self.name, self.found)?;
        match &self.mend {
            Some(mend) => write!(f, "\n        {:<24} → {mend}", ""),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
