"""`python -m ropeway`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import ropeway

# As it is written for clusters of vLLM 0.23.
SEED = {
    "kv_connector": "RopewayConnector",
    "kv_buffer_device": "npu",
    "kv_role": "kv_producer",
    "kv_parallel_size": 1,
    "kv_port": "20001",
    "engine_id": "0",
    "kv_rank": 0,
    "kv_connector_extra_config": {"prefill": {"dp_size": 2, "tp_size": 2}, "decode": {"dp_size": 2, "tp_size": 2}},
}


def call(*words: str, text: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ropeway", *words]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=120)


def migrated(config: object, *words: str) -> subprocess.CompletedProcess[str]:
    return call("migrate-config", *words, text=config if isinstance(config, str) else json.dumps(config))


def test_a_configuration_for_0_23_loses_what_0_32_refuses_and_the_reasons_are_told() -> None:
    done = migrated(SEED, "--vllm", "0.32.0")
    assert done.returncode == 0, done.stderr
    kept = {key: value for key, value in SEED.items() if key not in ("kv_rank", "kv_parallel_size")}
    assert json.loads(done.stdout) == kept | {"kv_port": 20001}
    for line in ("kv_rank removed: vLLM 0.32.0 refuses it", "kv_parallel_size removed", "kv_port is the number 20001",
                 "note: a fixed engine_id is not needed"):
        assert line in done.stderr


def test_it_is_left_as_it_is_where_vllm_takes_it() -> None:
    done = migrated(SEED, "--vllm", "0.23.0")
    assert json.loads(done.stdout) == SEED | {"kv_port": 20001}
    assert "removed" not in done.stderr


def test_what_was_printed_is_not_changed_again() -> None:
    once = migrated({"kv_connector": "RopewayConnector", "kv_role": "kv_both"}, "--vllm", "0.32")
    assert "nothing had to change" in once.stderr
    again = migrated(migrated(SEED, "--vllm", "0.32").stdout, "--vllm", "0.32")
    assert all(line.startswith("  note:") for line in again.stderr.splitlines()[1:]), again.stderr


def test_a_key_that_nobody_knows_is_refused_with_the_nearest_name() -> None:
    own = {"kv_role": "kv_both", "kv_connector_extra_config": {"ropeway": {"first_contact_graze": 5}}}
    done = migrated(own)
    assert (done.returncode, done.stdout) == (1, "")
    assert 'ropeway.first_contact_graze is not known; did you mean "first_contact_grace"?' in done.stderr
    done = migrated({"kv_rloe": "kv_both"})
    assert (done.returncode, done.stdout) == (1, "")
    assert 'kv_rloe is not known; did you mean "kv_role"?' in done.stderr


def test_a_file_is_read_and_what_is_no_configuration_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(SEED))
    assert call("migrate-config", str(file), "--vllm", "0.32").returncode == 0
    assert call("migrate-config", str(tmp_path / "none.json")).returncode == 2
    assert migrated("{", "--vllm", "0.32").returncode == 1
    assert migrated(SEED, "--vllm", "newest").returncode == 1


def test_the_command_line_is_explained() -> None:
    assert call().returncode == 2
    assert call("migrate").returncode == 2
    assert call("--version").stdout == f"ropeway {ropeway.__version__}\n"
    assert "migrate-config" in call("--help").stdout
    help = call("migrate-config", "--help")
    assert help.returncode == 0 and "--vllm VERSION" in help.stdout and "Exit status:" in " ".join(help.stdout.split())
