"""What is proven: each scenario is a record. A new connector or transport is a new record here, nothing else."""

import json
from dataclasses import dataclass, field, replace

from .readme import Readme
from .threads import Threads
from .within import Serverless

NEWEST = "0.32.0"


@dataclass(frozen=True)
class Connector:
    """A connector as vLLM is told of it.

    Strings in `config` and `environment` may hold `{side_port}` and `{bootstrap_port}`: free ports, other ones for
    each instance; `{metaserver_port}`: the one of `proxy-layerwise`; `{key_file}`: a file with a fresh key; `{cann}`, `{npus}`: a software CANN, and where its NPUs keep
    their memory: the same for both. `metrics` must be on the decode instance once KV was moved; `transfer_time` is a
    histogram there.
    """

    name: str
    transport: str
    config: dict
    environment: dict[str, str] = field(default_factory=dict)
    dialect: str = "nixl"
    metrics: tuple[str, ...] = ()
    transfer_time: str | None = None
    # A histogram with the bytes of each load, where a load brings whole blocks and nothing else.
    load_bytes: str | None = None
    # Ropeway's package is put where Python finds it.
    ropeway: bool = False
    # A software CANN is laid out.
    cann: bool = False
    # Folders of `shims/` that come first in the path of modules.
    before: tuple[str, ...] = ()
    # What must be beneath: a thread of that name in every worker, and in no process a library whose path has that part.
    engine_thread: str | None = None
    foreign_library: str | None = None
    # Idle cores of an instance above those of one without a connector; None: told in the table, not judged.
    idle_cores_max: float | None = None


@dataclass(frozen=True)
class Scenario:
    """One start of a prefill and a decode instance, and all that is asked of them."""

    name: str
    connector: Connector
    model: str = "llama"
    vllm: str = NEWEST
    routers: tuple[str, ...] = ("proxy", "proxy-absent", "vllm-router")
    tensor_parallel: tuple[int, int] = (1, 1)
    rounds: tuple[str, ...] = ("sequential", "concurrent", "primed", "disconnects")
    # More of vLLM's command line: of the prefill and of the decode instance.
    arguments: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    # Further rows: what befalls the pair, by the names of `faults`.
    faults: tuple[str, ...] = ()
    # Where the expected tokens come from: a single instance, or the scenario whose tokens are trusted.
    reference: str = "single"
    # Checks that must fail, and no others may: a control that proves that the checks see what they should.
    must_fail: frozenset[str] = frozenset()
    timed: int = 5
    environment: dict[str, str] = field(default_factory=dict)
    # Without `--all` only these run: the rest takes longer than a CI has.
    always: bool = False

    @property
    def needs(self) -> tuple[str, ...]:
        return ("ropeway",) * self.connector.ropeway + ("cann",) * self.connector.cann

    @property
    def line(self) -> str:
        return (f"{self.connector.name} over {self.connector.transport}, {self.model}, vLLM {self.vllm}, "
                f"behind {', '.join(self.routers)}")


NIXL_METRICS = (
    "vllm:nixl_xfer_time_seconds", "vllm:nixl_post_time_seconds", "vllm:nixl_bytes_transferred",
    "vllm:nixl_num_descriptors", "vllm:nixl_num_failed_transfers", "vllm:nixl_num_failed_notifications",
    "vllm:nixl_num_kv_expired_reqs",
)

NIXL = Connector(
    "NixlConnector", "ucx", {"kv_connector": "NixlConnector"},
    {"VLLM_NIXL_SIDE_CHANNEL_HOST": "127.0.0.1", "VLLM_NIXL_SIDE_CHANNEL_PORT": "{side_port}"},
    metrics=NIXL_METRICS, transfer_time="vllm:nixl_xfer_time_seconds")

# The same for a release that does not know the shape of the CPU's caches.
NIXL_PACKED = replace(NIXL, config=NIXL.config | {"kv_connector_module_path": "e2e_shims.nixl_packed"})

# vLLM's own connector, with the one line that asks for a device index answered on machines without an accelerator.
MOONCAKE = Connector(
    "MooncakeConnector", "tcp",
    {"kv_connector": "MooncakeConnector", "kv_connector_module_path": "e2e_shims.mooncake_cpu",
     "kv_connector_extra_config": {"mooncake_protocol": "tcp", "num_workers": 2}},
    # By default both sides wait 480 s for a transfer whose client has left, and the decode instance holds its blocks.
    {"VLLM_MOONCAKE_BOOTSTRAP_PORT": "{bootstrap_port}", "VLLM_MOONCAKE_ABORT_REQUEST_TIMEOUT": "20"},
    dialect="mooncake")

# The same connector over Ropeway's drop-in for Mooncake's engine, which the package's plugin installs in every process.
# The real `mooncake` cannot be imported there: a package of that name that refuses is found before it.
DROP_IN = replace(
    MOONCAKE, transport="ropeway", ropeway=True, before=("no_mooncake",), engine_thread="ropeway-control",
    foreign_library="/mooncake/engine.", idle_cores_max=0.05,
    environment=MOONCAKE.environment | {"ROPEWAY_COMPAT": "mooncake", "ROPEWAY_PSK_FILE": "{key_file}"})

ROPEWAY_METRICS = tuple(name.replace("vllm:nixl_", "vllm:ropeway_") for name in NIXL_METRICS)


# Blocks whose client has left before a consumer heard of them come back after it; by default after two minutes.
GRACE_SECONDS = 15


def ropeway(transport: str, own: dict | None = None, **config: object) -> Connector:
    """This repository's connector over one transport, with keys of its own and of vLLM."""
    own = {"transports": [transport], "first_contact_grace": GRACE_SECONDS, **(own or {})}
    return Connector(
        "RopewayConnector", transport,
        # A free port: other pairs may run on this machine.
        {"kv_connector": "RopewayConnector", "kv_port": 0,
         "kv_connector_extra_config": {"ropeway": own}, **config},
        metrics=ROPEWAY_METRICS, transfer_time="vllm:ropeway_xfer_time_seconds",
        load_bytes="vllm:ropeway_bytes_transferred", ropeway=True, idle_cores_max=0.05)


# A configuration as people have it from vllm-ascend's examples, which vLLM 0.23 takes as it stands: a fixed id that both
# sides share, a port as a string, sizes that are not so, and fields that newer vLLM refuses.
ROPEWAY_AS_FOUND = replace(ropeway("cma"), config={
    "kv_connector": "RopewayConnector", "kv_buffer_device": "npu", "kv_parallel_size": 1, "kv_port": "{side_port}",
    "engine_id": "0", "kv_rank": 0,
    "kv_connector_extra_config": {
        "prefill": {"dp_size": 2, "tp_size": 2}, "decode": {"dp_size": 2, "tp_size": 2},
        "ropeway": {"first_contact_grace": GRACE_SECONDS}}})

# Between two simulated NPUs: no figure of it says anything about a real one.
ROPEWAY_HIXL = replace(
    ropeway("hixl"), transport="hixl (simulated)", cann=True,
    config=ropeway("hixl").config | {"kv_connector_module_path": "e2e_shims.simulated_hbm"},
    environment={"ROPEWAY_CANN_PATH": "{cann}", "ROPEWAY_HCCN_CONF": "{cann}/etc/node0/hccn.conf", "ROPEWAY_NODE": "node0",
                 "ROPEWAY_SIM_STATE": "{npus}", "ROPEWAY_SIM_HOST_VISIBLE": "1"})

# As one of several: vLLM's example writes every prompt to files and takes it from there where nobody else has it.
ROPEWAY_CHILD = replace(
    ropeway("shm"), transport="shm, of two",
    config={"kv_connector": "MultiConnector", "kv_connector_extra_config": {"connectors": [
        ropeway("shm").config | {"kv_role": "kv_both"},
        {"kv_connector": "ExampleConnector", "kv_role": "kv_both",
         "kv_connector_extra_config": {"shared_storage_path": "{key_file}-{side_port}"}}]}})

# The prefill instance writes each layer as it is computed; the chunks of long prompts are short.
ROPEWAY_PUSH = ropeway("tcp", {"mode": "push", "metaservers": ["http://127.0.0.1:{metaserver_port}"]})
ROPEWAY_PUSH_RESTING = replace(
    ROPEWAY_PUSH, config=ROPEWAY_PUSH.config | {"kv_connector_module_path": "e2e_shims.resting"})
CHUNKED = ("--max-num-batched-tokens", "96")

NGRAM = ("--speculative-config", json.dumps(
    {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3, "prompt_lookup_min": 1}))
TWO_RANKS = ("--data-parallel-size", "2")

# A decode instance whose received KV is spoiled: proves that the comparison of tokens would notice.
SPOILED = replace(
    MOONCAKE, transport="tcp, spoiled",
    config=MOONCAKE.config | {"kv_connector_module_path": "e2e_shims.spoiled"},
    environment=MOONCAKE.environment | {"ROPEWAY_E2E_SPOILS": "e2e_shims.mooncake_cpu:MooncakeConnector"})

ROPEWAY_SPOILED = replace(
    ropeway("shm"), transport="shm, spoiled",
    config=ropeway("shm").config | {"kv_connector_module_path": "e2e_shims.spoiled"},
    environment={"ROPEWAY_E2E_SPOILS": "ropeway.vllm.connector:RopewayConnector"})

# Kthena speaks NIXL's dialect only, also under the type name `mooncake`.
NIXL_ROUTERS = ("proxy", "proxy-absent", "vllm-router", "kthena-like")
MOONCAKE_ROUTERS = ("proxy", "vllm-router")
WRONG_TOKENS = frozenset({"sequential_outputs_equal", "concurrent_outputs_equal"})

SCENARIOS = (
    Scenario("nixl", NIXL, routers=NIXL_ROUTERS, faults=("P killed",)),
    Scenario("nixl-0.27", NIXL, vllm="0.27.1", routers=("proxy",)),
    Scenario("nixl-0.23", NIXL_PACKED, vllm="0.23.0", routers=("proxy",)),
    Scenario("ropeway-shm", ropeway("shm"), faults=("P killed",), always=True),
    Scenario("ropeway-cma", ropeway("cma"), routers=("proxy",)),
    # Also a cache that no other process could map.
    Scenario("ropeway-tcp", ropeway("tcp", {"shared_memory": False}), routers=("proxy", "vllm-router", "kthena-like"),
             always=True),
    Scenario("ropeway-hixl", ROPEWAY_HIXL, routers=("proxy",), faults=("P killed",), timed=0, always=True),
    Scenario("ropeway-spoiled", ROPEWAY_SPOILED, routers=("proxy",), rounds=("sequential", "concurrent"), timed=0,
             must_fail=WRONG_TOKENS),
    Scenario("ropeway-qwen2", ropeway("shm"), "qwen2", routers=("proxy",), timed=0),
    Scenario("ropeway-gemma3", ropeway("shm"), "gemma3", routers=("proxy",), timed=0, always=True),
    # More processes spin than this has cores.
    Scenario("ropeway-tp", ropeway("tcp", kv_connector_module_path="e2e_shims.resting"), routers=("proxy",),
             tensor_parallel=(2, 1)),
    # vLLM computes what did not come, in place of an error.
    Scenario("ropeway-recompute", ropeway("cma", kv_load_failure_policy="recompute"), routers=("proxy",), faults=("P killed",),
             timed=0),
    # They allocate their caches as they please: no other process maps them.
    Scenario("ropeway-0.27", ropeway("cma"), vllm="0.27.1", routers=("proxy",)),
    Scenario("ropeway-0.23", ROPEWAY_AS_FOUND, vllm="0.23.0", routers=("proxy",), timed=0, always=True),
    Scenario("ropeway-faults", ropeway("tcp"), routers=("proxy",), rounds=("sequential",),
             faults=("P stopped", "D killed"), timed=0),
    Scenario("ropeway-storm", ropeway("tcp"), routers=("proxy",), rounds=("sequential", "storm"), timed=0),
    Scenario("ropeway-multi", ROPEWAY_CHILD, routers=("proxy",)),
    # The second rank takes the port after.
    Scenario("ropeway-dp", ropeway("tcp", kv_port="{side_port}"), routers=("proxy",), arguments=(TWO_RANKS, TWO_RANKS),
             timed=0),
    # Behind the other proxy the same instances pull.
    Scenario("ropeway-push", ROPEWAY_PUSH, routers=("proxy-layerwise", "proxy"), arguments=(CHUNKED, ()), faults=("P killed",)),
    Scenario("ropeway-push-tp", ROPEWAY_PUSH_RESTING, routers=("proxy-layerwise",), tensor_parallel=(2, 1),
             arguments=(CHUNKED, ()), timed=0),
    Scenario("ropeway-push-0.27", ROPEWAY_PUSH, vllm="0.27.1", routers=("proxy-layerwise",), arguments=(CHUNKED, ()), timed=0),
    Scenario("ropeway-push-0.23", ROPEWAY_PUSH, vllm="0.23.0", routers=("proxy-layerwise",), arguments=(CHUNKED, ()), timed=0),
    Scenario("ropeway-ngram", ropeway("shm"), routers=("proxy",), arguments=(NGRAM, NGRAM), timed=0),
    Scenario("mooncake", MOONCAKE, routers=MOONCAKE_ROUTERS),
    Scenario("mooncake-ropeway", DROP_IN, routers=MOONCAKE_ROUTERS, always=True),
    Scenario("spoiled", SPOILED, routers=("proxy",), rounds=("sequential", "concurrent"), timed=0,
             must_fail=WRONG_TOKENS),
    Scenario("spoiled-gemma3", SPOILED, "gemma3", routers=("proxy",), rounds=("sequential", "concurrent"), timed=0,
             must_fail=WRONG_TOKENS),
    Scenario("mooncake-qwen2", MOONCAKE, "qwen2", routers=("proxy",), timed=0),
    Scenario("mooncake-ropeway-gemma3", DROP_IN, "gemma3", routers=("proxy",), timed=0),
    Scenario("mooncake-gemma3", MOONCAKE, "gemma3", routers=("proxy",), timed=0),
    # Recurrent states beside attention. A single instance on the CPU gives other tokens when it has a part cached, or is asked
    # two things at once.
    Scenario("mooncake-lfm2", MOONCAKE, "lfm2", routers=("proxy",), rounds=("sequential",), reference="itself", timed=0),
    Scenario("ropeway-lfm2", ropeway("shm"), "lfm2", routers=("proxy",), rounds=("sequential",), reference="mooncake-lfm2",
             timed=0),
    # vLLM's prefill and decode kernels of MLA disagree on the CPU: no answer of a single instance is a reference,
    # and batches of other shapes change the tokens. So one at a time, and against another connector's tokens.
    Scenario("mooncake-mla", MOONCAKE, "mla", routers=("proxy",), rounds=("sequential",), reference="itself",
             timed=0),
    Scenario("ropeway-mla", ropeway("shm"), "mla", routers=("proxy",), rounds=("sequential",), reference="mooncake-mla",
             timed=0),
)


# What no pair of instances is started for.
OTHERS = (
    Threads("vllm-ascend-threads", "0.23.0"),
    Readme("readme", NEWEST, always=True),
    Serverless("inside", NEWEST, own=False, always=True),
    Serverless("vllm-own-tests", NEWEST, own=True, always=True),
)
Other = Threads | Readme | Serverless
Anything = Scenario | Other
EVERYTHING: tuple[Anything, ...] = (*SCENARIOS, *OTHERS)


def chosen(only: list[str], every: bool) -> list[Anything]:
    """What to run, in its order. Raises ValueError for a name that is not there."""
    known = {one.name: one for one in EVERYTHING}
    for name in only:
        if name not in known:
            raise ValueError(f"there is no scenario `{name}`; there are: {', '.join(known)}")
    if only:
        return [one for one in EVERYTHING if one.name in only]
    return [one for one in EVERYTHING if every or one.always]


def needs(chosen: list[Anything]) -> list[str]:
    """What must be there for these, each once: `vllm VERSION`, `ropeway` for the package, `cann` for a software CANN."""
    words = [f"vllm {one.vllm}" for one in chosen]
    words += [word for one in chosen for word in one.needs]
    return list(dict.fromkeys(words))


def left_out(scenario: Anything, only: list[str]) -> str:
    """Why a scenario was not run."""
    if only:
        return "not named by --only"
    return "only with --all: all of them take longer than a CI has"
