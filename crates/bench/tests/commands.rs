//! The commands as a user runs them: what they print, and how they end when something is wrong.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Nothing here takes longer, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(120);

fn start(line: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_ropeway-bench"))
        .args(line.split_whitespace())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits with a watchdog. What is printed fits into the pipes.
fn finish(mut child: Child, line: &str) -> Output {
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

fn bench(line: &str) -> Output {
    finish(start(line), line)
}

/// The only JSON line of a command that must end well.
fn json(line: &str) -> Value {
    let output = bench(line);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "`{line}` failed: {err}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("`{line}` printed {out:?}: {error}"))
}

/// What a command that must fail says.
fn complaint(line: &str) -> String {
    let output = bench(line);
    assert!(!output.status.success(), "`{line}` must fail");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn file(name: &str, contents: &[u8]) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{name}", std::process::id()));
    fs::write(&path, contents).unwrap();
    path
}

fn triples(list: &[[u64; 3]]) -> Vec<u8> {
    list.iter().flatten().flat_map(|word| word.to_le_bytes()).collect()
}

fn trace(requests: usize) -> String {
    let line = |i: usize| {
        let first = 1000 + i * 3;
        format!(
            "{{\"timestamp\": {}, \"input_length\": 1300, \"output_length\": 9, \"hash_ids\": [1, {}, {}]}}\n",
            i * 10,
            first,
            first + 1
        )
    };
    (0..requests).map(line).collect()
}

#[test]
fn pd_moves_and_verifies_over_every_transport_both_ways() {
    for transport in ["loopback", "shm", "cma", "tcp"] {
        for op in ["read", "write"] {
            let printed = json(&format!("pd --tokens 256 --transport {transport} --op {op} --json"));
            assert_eq!(printed["transport"], transport);
            assert_eq!(printed["op"], op);
            assert_eq!(printed["bytes"], 27 * 2 * (131_072 + 16_384));
            assert_eq!(printed["verified"], true);
            assert!(printed["share_of_limit"]["median"].as_f64().unwrap() > 0.0, "{printed}");
            assert_eq!(printed["rounds"], 15);
        }
    }
}

#[test]
fn several_prompts_in_flight_of_a_model_with_windows_arrive_whole() {
    let printed =
        json("pd --model DeepSeek-V4-Flash --tokens 700 --concurrency 3 --fragmentation 0.5 --json");
    assert_eq!(printed["requests"], 45);
    assert_eq!(printed["verified"], true);
    assert!(printed["runs"].as_u64() < printed["descriptors"].as_u64(), "{printed}");
}

#[test]
fn batches_over_several_streams_and_copy_threads_arrive_whole() {
    for line in [
        "pd --transport tcp --streams 3",
        "pd --transport tcp --op write --streams 2",
        "pd --transport shm --copy-threads 2",
    ] {
        let printed = json(&format!("{line} --tokens 1024 --no-reference --json"));
        assert_eq!(printed["verified"], true);
        assert!(printed["share_of_limit"].is_null());
    }
}

#[test]
fn run_prints_the_agreed_object() {
    let list = file("list", &triples(&[[0, 8192, 4096], [4097, 77, 1000], [20_000, 0, 1]]));
    for (transport, op) in [("loopback", "read"), ("shm", "write"), ("cma", "read"), ("tcp", "write")] {
        let printed = json(&format!(
            "run --desc {} --pool 32768 --op {op} --transport {transport} --reps 3 --warmup 1 --name odd",
            list.display()
        ));
        let object = printed.as_object().unwrap();
        let mut names: Vec<&str> = object.keys().map(String::as_str).collect();
        names.sort_unstable();
        let agreed = [
            "bytes",
            "cpu_initiator_s",
            "cpu_target_s",
            "descriptors",
            "op",
            "reps",
            "transport",
            "verified",
            "workload",
        ];
        assert_eq!(names, agreed);
        assert_eq!(printed["workload"], "odd");
        assert_eq!((&printed["bytes"], &printed["descriptors"]), (&5097.into(), &3.into()));
        assert_eq!(printed["reps"].as_array().unwrap().len(), 3);
        assert_eq!(printed["verified"], true);
    }
}

#[test]
fn run_refuses_lists_that_pass_the_end_or_write_a_byte_twice() {
    let past = file("past", &triples(&[[0, 0, 4096], [4096, 8193, 4096]]));
    let said = complaint(&format!("run --desc {} --pool 12288 --transport loopback", past.display()));
    assert!(said.contains("triple 1") && said.contains("12288"), "{said}");
    let twice = file("twice", &triples(&[[0, 0, 4096], [4095, 8192, 4096]]));
    let said = complaint(&format!("run --desc {} --pool 12288 --transport loopback", twice.display()));
    assert!(said.contains("twice") || said.contains("overlap"), "{said}");
    let torn = file("torn", &[0; 25]);
    let said = complaint(&format!("run --desc {} --pool 12288 --transport loopback", torn.display()));
    assert!(said.contains("25 bytes"), "{said}");
}

#[test]
fn replay_loses_nothing_with_pools_too_small_for_the_whole_trace() {
    let trace = file("trace", trace(24).as_bytes());
    // Eleven blocks a request; room for two and a bit on either side.
    let pools = "--producer-pool 100000000 --consumer-pool 110000000";
    for (transport, verify) in [("shm", "stamps"), ("loopback", "full"), ("tcp", "stamps")] {
        let printed = json(&format!(
            "replay --trace {} {pools} --transport {transport} --verify {verify} --speedup 100 --json",
            trace.display()
        ));
        assert_eq!((&printed["requests"], &printed["tokens"]), (&24.into(), &31_200.into()));
        assert_eq!((&printed["lost"], &printed["wrong"]), (&0.into(), &0.into()));
        let block = 27 * (131_072 + 16_384);
        let all = printed["bytes_moved"].as_u64().unwrap() + printed["bytes_reused"].as_u64().unwrap();
        assert_eq!(all, 24 * 11 * block);
        assert!(printed["consumer_pool"]["evicted"].as_u64().unwrap() > 0);
        assert!(printed["producer_pool"]["peak_blocks"].as_u64().unwrap() <= 25);
    }
}

/// Runs where the project's data sits beside the repository; says so where it does not.
#[test]
fn replay_moves_a_slice_of_the_real_trace() {
    let trace = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared/data/mooncake-conversation-trace.jsonl");
    if !trace.exists() {
        ropeway_testkit::cannot_run(
            "replay_moves_a_slice_of_the_real_trace",
            &format!("{} is not there", trace.display()),
        );
        return;
    }
    let printed = json(&format!(
        "replay --trace {} --limit 8 --speedup 10 --transport shm --json \
         --producer-pool 1000000000 --consumer-pool 1000000000",
        trace.display()
    ));
    assert_eq!((&printed["requests"], &printed["transport"]), (&8.into(), &"shm".into()));
    assert_eq!((&printed["lost"], &printed["wrong"]), (&0.into(), &0.into()));
    assert!(printed["bytes_reused"].as_u64().unwrap() > 0, "all share their first 512 tokens: {printed}");
}

#[test]
fn replay_names_bad_lines_and_goes_on_only_when_told() {
    let text = format!("{}not json\n{{\"timestamp\": 1}}\n", trace(2));
    let trace = file("bad", text.as_bytes());
    let line = format!(
        "replay --trace {} --producer-pool 100000000 --consumer-pool 100000000 --transport loopback --json",
        trace.display()
    );
    let said = complaint(&line);
    assert!(said.contains("line 3") && said.contains("line 4") && said.contains("--skip-bad"), "{said}");
    let printed = json(&format!("{line} --skip-bad"));
    assert_eq!(printed["requests"], 2);
}

#[test]
fn replay_says_which_pool_is_too_small() {
    let trace = file("small", trace(1).as_bytes());
    let said = complaint(&format!("replay --trace {} --consumer-pool 10000000", trace.display()));
    assert!(said.contains("--consumer-pool") && said.contains("needs 11"), "{said}");
}

/// A `serve` process and the descriptor that it printed; killed when dropped.
struct Served(Child, String);

impl Served {
    fn start(line: &str) -> Self {
        let mut child = start(line);
        let mut descriptor = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut descriptor).unwrap();
        assert!(!descriptor.is_empty(), "`{line}` printed no descriptor");
        Self(child, descriptor.trim().to_owned())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Two ports in a row that nobody uses now.
fn port() -> u16 {
    loop {
        let first = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        if port < u16::MAX && std::net::TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return port;
        }
    }
}

#[test]
fn a_served_producer_is_reached_by_its_descriptor_and_by_nobody_without_it() {
    let port = port();
    let served = Served::start(&format!("serve --listen 127.0.0.1:{port}"));
    let printed = json(&format!("pd --peer {} --tokens 128 --transport tcp --json", served.1));
    assert_eq!((&printed["transport"], &printed["verified"]), (&"tcp".into(), &true.into()));
    // A stranger's garbage on the control port must not end the server.
    let mut stranger = std::net::TcpStream::connect(("127.0.0.1", port + 1)).unwrap();
    stranger.write_all(&[b'{'; 3000]).unwrap();
    drop(stranger);
    let said = complaint(&format!("pd --peer 127.0.0.1:{port} --insecure --tokens 128"));
    assert!(said.contains("another descriptor or key"), "{said}");
    let printed = json(&format!("pd --peer {} --tokens 128 --op write --json", served.1));
    assert_eq!(printed["verified"], true);
}

#[test]
fn a_producer_ends_when_nobody_started_it_or_its_input_ends() {
    let said = complaint("producer --parent 1");
    assert!(said.contains("is gone"), "{said}");
    let line = format!("producer --parent {}", std::process::id());
    assert!(bench(&line).status.success());
}

/// The producer that a command has started.
fn producer_of(pid: u32) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

#[test]
fn the_death_of_the_producer_ends_pd_with_a_word_about_it() {
    let line = "pd --tokens 1024 --requests 100000 --transport tcp";
    let child = start(line);
    let until = Instant::now() + PATIENCE;
    let producer = loop {
        match producer_of(child.id()) {
            Some(producer) => break producer,
            None => assert!(Instant::now() < until, "no producer was started"),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    std::thread::sleep(Duration::from_secs(2));
    assert!(Command::new("kill").args(["-9", &producer.to_string()]).status().unwrap().success());
    let output = finish(child, line);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("the producer process ended: signal: 9"), "{said}");
}

#[test]
fn models_are_listed_and_unknown_ones_refused() {
    let output = bench("pd --list-models");
    assert!(String::from_utf8_lossy(&output.stdout).contains("Qwen3-235B-A22B"));
    let said = complaint("pd --model GPT-2");
    assert!(said.contains("no shape for model GPT-2"), "{said}");
}

#[test]
fn the_documented_predictions_are_what_the_command_prints() {
    let page = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/BENCHMARKING.md");
    let page = fs::read_to_string(page).unwrap();
    let documented =
        page.split("<!-- ropeway-bench model --markdown -->\n").nth(1).expect("the page has the mark");
    let printed = bench("model --markdown");
    assert!(printed.status.success());
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert!(printed.lines().count() > 15, "{printed}");
    assert!(documented.starts_with(&printed), "docs/BENCHMARKING.md must hold what this prints:\n{printed}");
}

#[test]
fn predictions_say_that_they_are() {
    let output = bench("model --model Qwen3-8B --fragmentation 0.5");
    assert!(String::from_utf8_lossy(&output.stdout).contains("PREDICTED, nothing was measured"));
    let output = bench("model --direction D2rD --json");
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let object: Value = serde_json::from_str(line).unwrap();
        assert_eq!(object["predicted"], true, "{line}");
    }
}

#[test]
fn the_doctor_looks_at_a_machine_without_npus() {
    let output = bench("doctor --host-only --json");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["command"], &report["simulated"]), (&"doctor".into(), &false.into()));
    let findings = report["findings"].as_array().unwrap();
    let wrong = findings.iter().filter(|finding| finding["state"] == "wrong").count();
    assert_eq!(output.status.code(), Some(if wrong == 0 { 0 } else { 1 }));
    for name in
        ["kernel", "cores", "clock", "memfd", "ptrace scope", "huge pages", "host memory", "interfaces"]
    {
        assert!(findings.iter().any(|finding| finding["name"] == name), "nothing about {name}: {report}");
    }
    assert!(String::from_utf8(bench("doctor --host-only").stdout).unwrap().contains("ptrace scope"));
}

#[test]
fn without_a_cann_the_doctor_says_so_once_and_goes_on() {
    let nowhere = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("no-cann-here");
    let output = bench(&format!("doctor --json --cann {}", nowhere.display()));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let ascend: Vec<&Value> = findings.iter().filter(|finding| finding["area"] == "ascend").collect();
    assert_eq!(ascend.len(), 1, "{report}");
    assert_eq!(ascend[0]["state"], "absent");
    assert!(ascend[0]["mend"].as_str().unwrap().contains("ROPEWAY_CANN_PATH"), "{report}");
    let wrong = findings.iter().any(|finding| finding["state"] == "wrong");
    assert_eq!(output.status.code(), Some(if wrong { 1 } else { 3 }));
    assert!(findings.len() > 12, "the rest is looked at all the same");
}

#[test]
fn a_device_transport_without_a_cann_says_where_it_was_looked_for() {
    for transport in ["hixl", "ipc", "hccl"] {
        let said = complaint(&format!("pd --tokens 128 --transport {transport} --cann /no/such/folder"));
        assert!(said.contains("no CANN was found") && said.contains("/no/such/folder"), "{said}");
    }
    let said = complaint("pd --tokens 128 --direction d2d");
    assert!(said.contains("rD2D"), "{said}");
}
