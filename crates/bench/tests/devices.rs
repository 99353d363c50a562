//! The commands for NPUs, on the software CANN. Every figure here is simulated.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use ropeway_testkit::cann::SimCann;
use ropeway_testkit::cannot_run;
use serde_json::Value;

/// Nothing here takes longer, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(240);

/// A software CANN with machines of its own.
struct Machine {
    root: PathBuf,
    state: PathBuf,
    faults: &'static str,
}

impl Machine {
    /// `None`, and a word about it, where none can be built.
    fn new(test: &str, cann: &SimCann) -> Option<Self> {
        match cann.root() {
            Ok(root) => {
                let state =
                    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{test}", std::process::id()));
                fs::create_dir_all(&state).unwrap();
                Some(Self { root, state, faults: "" })
            }
            Err(why) => {
                cannot_run(test, &why);
                None
            }
        }
    }

    fn faults(mut self, faults: &'static str) -> Self {
        self.faults = faults;
        self
    }

    fn bench(&self, line: &str) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ropeway-bench"))
            .args(line.split_whitespace())
            .env("ROPEWAY_CANN_PATH", &self.root)
            .env("ROPEWAY_HCCN_CONF", self.root.join("etc/node0/hccn.conf"))
            .env("ROPEWAY_NODE", "node0")
            .env("ROPEWAY_SIM_STATE", &self.state)
            .env("ROPEWAY_SIM_FAULTS", self.faults)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let until = Instant::now() + PATIENCE;
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > until {
                child.kill().unwrap();
                let output = child.wait_with_output().unwrap();
                panic!("`{line}` hangs; so far: {}", String::from_utf8_lossy(&output.stderr));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        child.wait_with_output().unwrap()
    }

    /// The only JSON line of a command that must end well.
    fn json(&self, line: &str) -> Value {
        let output = self.bench(line);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "`{line}` failed: {err}");
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("`{line}` printed {out:?}: {error}"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.state);
    }
}

/// A prompt of DeepSeek-V2-Lite, between two processes, every byte compared.
fn moves(machine: &Machine, line: &str) -> Value {
    let printed = machine.json(&format!("pd --tokens 256 --no-reference --json {line}"));
    assert_eq!((&printed["verified"], &printed["simulated"]), (&true.into(), &true.into()), "{line}");
    assert_eq!(printed["bytes"], 27 * 2 * (131_072 + 16_384), "{line}");
    printed
}

#[test]
fn a_prompt_moves_between_two_devices_over_hixl_in_each_direction_that_hccs_has() {
    let Some(machine) = Machine::new("pd_hixl", &SimCann::default()) else { return };
    assert_eq!(moves(&machine, "--transport hixl --c-api")["transport"], "hixl");
    for (direction, op) in [("rD2D", "read"), ("D2rD", "write"), ("rD2H", "read"), ("H2rD", "write")] {
        let printed = moves(&machine, &format!("--transport hixl --devices 0,1 --direction {direction}"));
        assert_eq!((&printed["transport"], &printed["direction"]), (&"hixl".into(), &direction.into()));
        assert_eq!(printed["op"], op);
    }
}

#[test]
fn a_prompt_moves_over_communicators_of_an_old_release() {
    let Some(machine) = Machine::new("pd_8_5", &SimCann::default().release("8.5.0").chip("a2")) else {
        return;
    };
    let cann = machine.root.display();
    assert_eq!(moves(&machine, &format!("--transport hixl --cann {cann}"))["transport"], "hixl");
}

#[test]
fn a_prompt_moves_over_ipc_and_hccl() {
    let Some(machine) = Machine::new("pd_ipc", &SimCann::default()) else { return };
    for line in
        ["--transport ipc", "--transport ipc --op write", "--transport hccl", "--transport hccl --op write"]
    {
        let printed = moves(&machine, line);
        assert_eq!(printed["transport"], line.split(' ').nth(1).unwrap());
    }
}

#[test]
fn a_swallowed_connect_is_measured_beside_transfers_that_go_on() {
    let Some(machine) = Machine::new("targets", &SimCann::default()) else { return };
    let printed = machine.json("targets --transport hixl --json");
    assert_eq!((&printed["simulated"], &printed["transport"]), (&true.into(), &"hixl".into()));
    assert!(printed["beside_p99_us"].as_f64().unwrap() > 0.0 && printed["transfers"] == 2000, "{printed}");
}

#[test]
fn a_raw_batch_between_devices_is_marked_as_simulated() {
    let Some(machine) = Machine::new("run_hixl", &SimCann::default()) else { return };
    let list = machine.state.join("list.u64");
    let triples: Vec<u8> =
        [0u64, 8192, 4096, 4097, 77, 1000].into_iter().flat_map(u64::to_le_bytes).collect();
    fs::write(&list, triples).unwrap();
    let line = format!("run --desc {} --pool 32768 --transport hixl --reps 3", list.display());
    let printed = machine.json(&line);
    assert_eq!((&printed["simulated"], &printed["verified"]), (&true.into(), &true.into()));
}

#[test]
fn the_doctor_knows_every_device_and_says_that_they_are_simulated() {
    let Some(machine) = Machine::new("doctor", &SimCann::default()) else { return };
    let output = machine.bench("doctor --json");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["simulated"], true);
    let findings = report["findings"].as_array().unwrap();
    let state = |name: &str| {
        let finding = findings.iter().find(|finding| finding["name"] == name);
        finding.unwrap_or_else(|| panic!("nothing about {name}: {report}"))["state"].as_str().unwrap()
    };
    for id in 0..4 {
        for about in ["", ", NIC", ", memory"] {
            assert_eq!(state(&format!("device {id}{about}")), "good", "{report}");
        }
    }
    for name in ["CANN", "versions", "hixl (C++ class)", "node", "RDMA's own retries", "HIXL's ports"] {
        assert_eq!(state(name), "good", "{report}");
    }
}

/// The experiment must tell the three apart, or it would tell nothing on hardware.
#[test]
fn the_experiment_sees_writes_after_a_destroy_exactly_when_there_are_some() {
    let Some(machine) = Machine::new("destroy_yes", &SimCann::default()) else { return };
    let machine = machine.faults("destroy_quiesces mode=yes");
    let line = "experiment destroy --bytes 134217728 --watch-ms 700";
    let quiet = machine.json(line);
    assert_eq!(quiet["simulated"], true);
    assert!(quiet["answer"].as_str().unwrap().starts_with("no byte was written after"), "{quiet}");
    for faults in ["destroy_quiesces mode=late ms=200", "destroy_quiesces mode=no"] {
        let Some(machine) = Machine::new("destroy_no", &SimCann::default()) else { return };
        let late = machine.faults(faults).json(line);
        assert!(late["answer"].as_str().unwrap().contains("does NOT quiesce"), "{faults}: {late}");
    }
}

#[test]
fn the_experiment_on_memory_tells_what_the_library_says_of_each_kind() {
    let Some(machine) = Machine::new("memory", &SimCann::default()) else { return };
    let told = machine.json("experiment memory");
    let moved = |at: usize| told["evidence"][at]["moved"].as_str().unwrap();
    assert_eq!((moved(0), moved(2)), ("yes", "yes"), "{told}");
    // The library's own number, although the engine would not have asked.
    assert!(moved(1).contains("503900"), "{told}");
    assert!(told["evidence"][1]["hccs"].as_str().unwrap().contains("pages of 4096"), "{told}");
}

#[test]
fn one_command_writes_one_report_with_an_answer_to_every_question() {
    let Some(machine) = Machine::new("hardware", &SimCann::default()) else { return };
    let report = machine.state.join("report.json");
    let kept = machine.state.join("conformance.txt");
    fs::write(&kept, "test hixl ... ok\n").unwrap();
    let line = format!("hardware --quick --report {} --conformance {}", report.display(), kept.display());
    let output = machine.bench(&line);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("SIMULATED"), "{said}");
    check_report(&report);
}

fn check_report(file: &Path) {
    let report: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!((&report["simulated"], &report["version"]), (&true.into(), &1.into()));
    assert_eq!(report["conformance"][0], "test hixl ... ok");
    for question in report["questions"].as_array().unwrap() {
        let answer = question["answer"].as_str().unwrap();
        assert!(
            !answer.is_empty() && !answer.contains("not looked at") && !answer.contains("no answer"),
            "{question}"
        );
    }
    for step in report["steps"].as_array().unwrap() {
        assert_eq!(step["good"], true, "{step}");
    }
}
