"""The README's commands: read as they stand, and run against a fake server."""

import json
from pathlib import Path

import pytest
from fake_vllm import FakeVllm
from ropeway_e2e import readme
from ropeway_e2e.instance import HERE, Failed

SECTION = f"""# A project

{readme.HEADING}

Words.

```sh
pip install target/wheels/x86_64/ropeway-*.whl other
serve --port 8100 &
ask http://127.0.0.1:8100 \\
    --of 8100
```
"""


class Up:
    """A server that is there at once."""

    def __init__(self, name, command, environment, port, log):
        self.command, self.port, self.asked = command, port, 0
        self.url = f"http://127.0.0.1:{port}"

    def wait_ready(self):
        self.asked += 1


def test_the_readme_has_five_commands_that_can_be_run():
    commands = readme.written((HERE.parent.parent / "README.md").read_text())
    assert len(commands) == 5 and readme.WHEEL.search(commands[0])
    assert [command.endswith("&") for command in commands] == [False, True, True, True, False]
    with pytest.raises(Failed, match="no commands"):
        readme.written("# A project\n")


def test_ports_and_the_wheel_are_the_ones_at_hand_in_every_command():
    commands = readme.substituted(readme.written(SECTION), Path("/here/ropeway-1.whl"))
    assert commands[0] == "pip install /here/ropeway-1.whl other"
    port = readme.PORT.search(commands[1]).group(1)
    assert port != "8100" and commands[2].split() == ["ask", f"http://127.0.0.1:{port}", "--of", port]


def test_a_command_that_fails_is_named_and_servers_are_waited_for(tmp_path):
    processes: list[Up] = []
    commands = ["true", "vllm serve --port 1 &", "echo answer"]
    assert readme.follow(commands, {"PATH": "/bin:/usr/bin"}, tmp_path, processes, Up) == "answer\n"
    assert processes[0].asked == 1 and processes[0].command[-1] == "exec vllm serve --port 1 "
    with pytest.raises(Failed, match="command 2 ended with 7: sh: oh"):
        readme.follow(["true", "sh -c 'echo oh >&2; exit 7'"], {"PATH": "/bin:/usr/bin"}, tmp_path, [], Up)
    with pytest.raises(Failed, match="a server without a port"):
        readme.follow(["serve &"], {}, tmp_path, [], Up)


def test_an_answer_without_text_or_with_a_prompt_computed_on_the_spot_is_no_success():
    good = json.dumps({"choices": [{"text": "yes"}]})
    with FakeVllm() as prefill, FakeVllm() as decode:
        processes = [Up("", "", {}, fake.port, None) for fake in (prefill, decode)]
        decode.counted["external_kv_transfer"] = 9
        assert readme.judged(good, processes) == []
        assert readme.judged("oops", processes) == ["no answer: oops"]
        assert readme.judged(json.dumps({"choices": [{"text": ""}]}), processes) == ["the answer is empty"]
        decode.counted["local_compute"] = 9
        (wrong,) = readme.judged(good, processes)
    assert wrong.startswith("the decode instance counts")
