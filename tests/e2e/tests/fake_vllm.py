"""Stands in for a vLLM server: the same pages, a model that is a hash, KV that is a number, and ways to go wrong."""

import hashlib
import json
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from urllib.parse import urlsplit

from ropeway_e2e.client import fetch

BLOCK = 32
ZERO = {"local_compute": 0, "local_cache_hit": 0, "external_kv_transfer": 0}


def kv_of(prompt: list[int]) -> str:
    """The KV of a prompt: what a wrong transfer spoils."""
    return hashlib.sha256(json.dumps(prompt).encode()).hexdigest()


def answer_of(kv: str, count: int) -> list[int]:
    return [int(hashlib.sha256(f"{kv} {at}".encode()).hexdigest()[:4], 16) % 448 for at in range(count)]


class FakeVllm:
    """One instance. `wrong` names what it does wrong; nothing by default.

    spoil: decodes from other KV than it was sent.        recompute: ignores the transfer and computes.
    leak: blocks that it lent are never free again.       refuse: every request is a 500.
    break_off: its stream ends in the middle.             no_params: a prefill answers without parameters.
    """

    def __init__(self, *wrong: str, metrics: tuple[str, ...] = (), token_s: float = 0.0) -> None:
        self.wrong, self.metrics, self.token_s = set(wrong), metrics, token_s
        self.lent: dict[str, str] = {}
        self.pushed: dict[str, str] = {}
        self.cached: set[str] = set()
        self.counted, self.running, self.resets, self.aborted = dict(ZERO), 0, 0, 0
        self.requests: list[dict] = []
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(self))
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def __enter__(self) -> "FakeVllm":
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def lend(self, prompt: list[int]) -> dict:
        name = str(uuid.uuid4())
        with self.lock:
            self.lent[name] = kv_of(prompt)
        return {"do_remote_prefill": True, "do_remote_decode": False, "remote_host": "127.0.0.1",
                "remote_port": self.port, "remote_request_id": name, "remote_block_ids": [[1]],
                "remote_engine_id": "fake"}

    def take_back(self, name: str) -> str:
        """The KV that was lent; free afterwards."""
        with self.lock:
            kv = self.lent[name]
            if "leak" not in self.wrong:
                del self.lent[name]
        return kv

    def prefill_or_pull(self, body: dict) -> str:
        """The KV of a request: cached, pulled or computed; and counted as such."""
        prompt, params = body["prompt"], body.get("kv_transfer_params") or {}
        own, count = kv_of(prompt), len(prompt)
        if params.get("metaserver"):
            kv, source = self.asked_for(body, params["metaserver"]), "external_kv_transfer"
        elif params.get("do_remote_prefill"):
            kv = fetch(f"http://{params['remote_host']}:{params['remote_port']}",
                       f"/lent/{params['remote_request_id']}").decode()
            source = "external_kv_transfer"
            if "recompute" in self.wrong:
                kv, source = own, "local_compute"
            if "spoil" in self.wrong:
                kv = kv[::-1]
        else:
            kv, source = own, "local_cache_hit" if own in self.cached else "local_compute"
        with self.lock:
            self.counted[source] += count
            self.cached.add(own)
        return kv

    def asked_for(self, body: dict, metaserver: str) -> str:
        """The KV that an instance pushes here, once the metaserver has asked one."""
        parts, name = urlsplit(metaserver), str(uuid.uuid4())
        params = {"request_id": f"cmpl-{body['id']}-0", "token_ids": [], "do_remote_prefill": False, "do_remote_decode": True,
                  "remote_host": "127.0.0.1", "remote_port": self.port, "remote_request_id": name}
        fetch(f"http://{parts.netloc}", parts.path, "POST", params)
        return self.pushed.pop(name)

    def push(self, params: dict, kv: str) -> None:
        fetch(f"http://{params['remote_host']}:{params['remote_port']}", f"/pushed/{params['remote_request_id']}", "POST",
              {"kv": kv})

    def page(self, path: str) -> bytes:
        if path == "/health":
            return b""
        if path.startswith("/lent/"):
            return self.take_back(path.removeprefix("/lent/")).encode()
        if path == "/query":
            return json.dumps({"0": {"engine_id": "fake", "worker_addr": {}}}).encode()
        usage = 0.125 * (len(self.lent) + self.running)
        lines = [f'vllm:prompt_tokens_by_source_total{{engine="0",source="{source}"}} {float(count)}'
                 for source, count in self.counted.items()]
        lines += [f'vllm:kv_cache_usage_perc{{engine="0",model_name="tiny"}} {usage}']
        lines += [f'{name}_count{{engine="0"}} 3.0' for name in self.metrics]
        return "\n".join(["# HELP of a metric", *lines, ""]).encode()


def handler_of(fake: FakeVllm) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def head(self, status: int, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.end_headers()

        def do_GET(self) -> None:
            said = fake.page(self.path)
            self.head(200, "text/plain")
            self.wfile.write(said)

        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path == "/reset_prefix_cache":
                fake.resets += 1
                fake.cached.clear()
                return self.head(200, "text/plain")
            body = json.loads(text)
            if self.path.startswith("/pushed/"):
                fake.pushed[self.path.removeprefix("/pushed/")] = body["kv"]
                return self.head(200, "text/plain")
            fake.requests.append(body)
            body = body | {"id": self.headers.get("X-Request-Id")}
            if "refuse" in fake.wrong:
                self.head(500, "application/json")
                return self.wfile.write(b'{"error": "refused by the fake"}')
            with fake.lock:
                fake.running += 1
            try:
                self.complete(body)
            except OSError:
                fake.aborted += 1
            finally:
                with fake.lock:
                    fake.running -= 1

        def complete(self, body: dict) -> None:
            kv = fake.prefill_or_pull(body)
            tokens = answer_of(kv, body["max_tokens"])
            params = body.get("kv_transfer_params") or {}
            if not body.get("stream"):
                pushes = params.get("do_remote_decode") and params.get("remote_request_id")
                if pushes:
                    fake.push(params, kv)
                lent = fake.lend(body["prompt"]) if params.get("do_remote_decode") and not pushes else None
                lent = None if "no_params" in fake.wrong else lent
                self.head(200, "application/json")
                choice = {"token_ids": tokens, "finish_reason": "length"}
                return self.wfile.write(json.dumps({"choices": [choice], "kv_transfer_params": lent}).encode())
            self.head(200, "text/event-stream")
            for at, token in enumerate(tokens):
                if "break_off" in fake.wrong and at == 3:
                    return None
                time.sleep(fake.token_s)
                last = at + 1 == len(tokens)
                event = {"choices": [{"token_ids": [token], "finish_reason": "length" if last else None}]}
                self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
                self.wfile.flush()
            return self.wfile.write(b"data: [DONE]\n\n")

        def log_message(self, *_: object) -> None:
            pass

    return Handler
