"""What the native half says reaches `logging`."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import logging, os, sys
import ropeway
from ropeway import _ropeway as native
logging.basicConfig(format="%(levelname)s %(name)s %(message)s", stream=sys.stdout, force=True)
{body}
"""
REFUSED = """
config = native.ConnectorConfig('{"kv_role": "kv_consumer"}')
scheduler = native.ConnectorScheduler(config, engine_id="e", sizes=(1, 1, 1))
scheduler.on_new_request("r", '{"do_remote_prefill": true, "remote_engine_id": "theirs"}')
"""


def run(body: str) -> str:
    done = subprocess.run([sys.executable, "-c", CODE.replace("{body}", body)], capture_output=True, text=True,
                          timeout=120, check=True)
    return done.stdout + done.stderr


def test_a_warning_is_in_the_log_before_the_program_ends() -> None:
    said = run("ropeway.Engine().close()\n" + REFUSED)
    assert said.startswith("WARNING ropeway.connector.scheduler kv_transfer_params are not used"), said
    assert "request=r" in said


def test_the_loggers_are_where_the_program_wants_them_and_their_level_counts() -> None:
    start = "from ropeway import _log\n_log.start('vllm.ropeway')\n"
    assert "WARNING vllm.ropeway.connector.scheduler" in run(start + REFUSED)
    quiet = "logging.getLogger('vllm.ropeway').setLevel(logging.ERROR)\n"
    assert run(start + quiet + REFUSED) == ""


def test_a_burst_is_bounded_and_what_is_missing_is_counted() -> None:
    # Nobody takes the lines while they come.
    burst = "native.keep_log()\n" + REFUSED + "for at in range(3000):\n    scheduler.on_new_request(f'r{at}', " \
            "'{\"do_remote_prefill\": true, \"remote_engine_id\": \"theirs\"}')\nprint(len(native.take_log()))\n"
    assert run(burst).strip() == str(1024 + 1)


def test_a_forked_child_says_nothing_and_ends() -> None:
    child = "from ropeway import _log\n_log.start()\nif os.fork() == 0:\n    exec(refused)\n    os._exit(0)\nos.wait()\n"
    assert run("refused = " + repr(REFUSED) + "\n" + child) == ""


def test_what_the_first_engine_says_when_it_opens_is_in_the_log() -> None:
    said = run("ropeway.Engine(listen='127.0.0.1:0', insecure=True).close()\n")
    assert "WARNING ropeway.builder insecure" in said


def test_a_forked_child_with_an_engine_of_its_own_is_heard() -> None:
    code = """
import logging, os, sys
logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format="%(process)d %(name)s")
import ropeway
ropeway.Engine().close()
child = os.fork()
if child == 0:
    ropeway.Engine(listen="127.0.0.1:0", insecure=True).close()
    sys.exit(0)
print(os.waitpid(child, 0)[1], child, "ended", flush=True)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=150)
    status, child, _ = done.stdout.splitlines()[-1].split()
    assert (status, done.returncode) == ("0", 0), done.stderr
    assert f"{child} ropeway.builder" in done.stdout
