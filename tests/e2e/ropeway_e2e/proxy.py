"""The built-in prefill-decode proxy: NIXL's dialect with null or absent keys, Mooncake's, or layer by layer; tries other pairs."""

import http.client
import json
import select
import socket
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from .client import connect, fetch

NULL_KEYS = ("remote_engine_id", "remote_block_ids", "remote_host", "remote_port")
TIMEOUT = 180
METASERVER = "/v1/metaserver"


class Refused(Exception):
    """A leg that failed before the client was given a byte: another pair may do better."""

    def __init__(self, leg: str, why: str) -> None:
        super().__init__(f"{leg}: {why}")


class ClientGone(Exception):
    """The client closed its connection."""


@dataclass(frozen=True)
class Pair:
    """A prefill instance, its Mooncake bootstrap server if it has one, and a decode instance."""

    prefill: str
    decode: str
    bootstrap: str | None = None


@dataclass
class Trip:
    """One request as the proxy saw it."""

    prefill_s: float | None = None
    decode_first_s: float | None = None
    params: dict | None = None
    tries: int = 0
    error: str | None = None


@dataclass
class Proxy:
    """A proxy over pairs, tried in order from one that moves round. `dialect` is `nixl`, `nixl-absent`, `mooncake`, `layerwise`.

    `port`: where it listens; a free one unless said.
    """

    pairs: list[Pair]
    dialect: str = "nixl"
    trips: list[Trip] = field(default_factory=list)
    # Called once the prefill leg is answered, before the decode leg is sent: the moment at which a fault hurts most.
    between: Callable[[], None] = lambda: None
    port: int = 0

    def __post_init__(self) -> None:
        self.turn, self.lock = 0, threading.Lock()
        # Journeys whose decode instance may ask for a prefill, by the id that it knows them by.
        self.asking: dict[str, Journey] = {}
        self.server = Server(("127.0.0.1", self.port), handler_of(self))
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def order(self) -> list[Pair]:
        with self.lock:
            self.turn += 1
            start = (self.turn - 1) % len(self.pairs)
        return self.pairs[start:] + self.pairs[:start]

    def carry(self, client: socket.socket, path: str, body: dict, send: "Reply") -> None:
        """Both legs on one pair, or on the next one when a leg is refused before anything was answered."""
        trip, said = Trip(), []
        self.trips.append(trip)
        for pair in self.order():
            trip.tries += 1
            try:
                return Journey(self.dialect, pair, client, path, body, trip, self.between, self).run(send)
            except Refused as refusal:
                said.append(str(refusal))
                if send.begun:
                    break
            except (ClientGone, BrokenPipeError, ConnectionResetError):
                trip.error = "the client left"
                return None
        trip.error = "; ".join(said)
        return send.fail(502, trip.error)

    def prefill_for(self, params: dict, send: "Reply") -> None:
        """A decode instance says where it waits for a prompt's KV."""
        asked = str(params.get("request_id"))
        with self.lock:
            journey = next((one for name, one in self.asking.items() if name in asked), None)
        if journey is None:
            return send.fail(404, f"nobody asks for {asked}")
        try:
            journey.layer_by_layer(params)
        except (Refused, ClientGone) as refusal:
            return send.fail(502, str(refusal))
        send.begin(200, "application/json")
        return send.data(b"{}")


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients leave; that is part of the proof, not news."""


class Reply:
    """What the client is sent: headers once, then bytes."""

    def __init__(self, handler: BaseHTTPRequestHandler) -> None:
        self.handler, self.begun = handler, False

    def begin(self, status: int, kind: str) -> None:
        self.begun = True
        self.handler.send_response(status)
        self.handler.send_header("Content-Type", kind)
        self.handler.send_header("Connection", "close")
        self.handler.end_headers()

    def data(self, block: bytes) -> None:
        self.handler.wfile.write(block)
        self.handler.wfile.flush()

    def fail(self, status: int, why: str) -> None:
        if not self.begun:
            self.begin(status, "application/json")
            self.data(json.dumps({"error": {"message": why, "code": status}}).encode())


def handler_of(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            reply = Reply(self)
            if self.path == "/health":
                reply.begin(200, "text/plain")
            else:
                reply.fail(404, f"no page {self.path}")

        def do_POST(self) -> None:
            reply = Reply(self)
            try:
                body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            except ValueError as error:
                return reply.fail(400, f"not JSON: {error}")
            if self.path == METASERVER:
                return proxy.prefill_for(body, reply)
            return proxy.carry(self.connection, self.path, body, reply)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@dataclass
class Journey:
    """One request on one pair."""

    dialect: str
    pair: Pair
    client: socket.socket
    path: str
    body: dict
    trip: Trip
    between: Callable[[], None]
    proxy: Proxy
    headers: dict[str, str] = field(default_factory=dict)

    def run(self, send: Reply) -> None:
        headers = {"Content-Type": "application/json", "X-Request-Id": f"e2e-{uuid.uuid4()}"}
        if self.dialect == "mooncake":
            return self.run_mooncake(headers, send)
        if self.dialect == "layerwise":
            return self.run_layerwise(headers, send)
        nulls = {} if self.dialect == "nixl-absent" else dict.fromkeys(NULL_KEYS)
        params = self.prefill({"do_remote_decode": True, "do_remote_prefill": False} | nulls, headers)
        if not params:
            raise Refused("prefill", "the answer carries no kv_transfer_params")
        self.trip.params = params
        self.between()
        return self.decode(params, headers, send)

    def run_mooncake(self, headers: dict[str, str], send: Reply) -> None:
        """Mooncake's order: both legs at once, joined by an id that the proxy draws."""
        transfer = str(uuid.uuid4())
        try:
            asked = json.loads(fetch(self.pair.bootstrap or "", "/query"))
        except OSError as error:
            raise Refused("bootstrap", str(error)) from error
        engine = asked["0"]["engine_id"]
        first = {"do_remote_decode": True, "do_remote_prefill": False, "transfer_id": transfer}
        second = {"do_remote_decode": False, "do_remote_prefill": True, "transfer_id": transfer,
                  "remote_engine_id": engine, "remote_bootstrap_addr": self.pair.bootstrap}
        self.trip.params = second
        with ThreadPoolExecutor(1) as other:
            leg = other.submit(self.prefill, first, headers)
            self.decode(second, headers, send)
            leg.result()

    def run_layerwise(self, headers: dict[str, str], send: Reply) -> None:
        """The decode instance first; it asks for the prefill."""
        name, self.headers = headers["X-Request-Id"], headers
        with self.proxy.lock:
            self.proxy.asking[name] = self
        try:
            self.decode({"do_remote_prefill": True, "do_remote_decode": False,
                         "metaserver": self.proxy.url + METASERVER}, headers, send)
        finally:
            with self.proxy.lock:
                del self.proxy.asking[name]

    def layer_by_layer(self, params: dict) -> None:
        """The prefill leg, told where its KV is wanted."""
        self.trip.params = params
        self.between()
        self.prefill({name: value for name, value in params.items() if name not in ("request_id", "token_ids")}, self.headers)

    def prefill(self, params: dict, headers: dict[str, str]) -> dict | None:
        body = {key: value for key, value in self.body.items() if key not in ("stream_options", "min_tokens")}
        body |= {"stream": False, "max_tokens": 1, "kv_transfer_params": params}
        if "max_completion_tokens" in body:
            body["max_completion_tokens"] = 1
        start = time.monotonic()
        with Leg("prefill", self.pair.prefill, self.client) as leg:
            said = leg.read_all(leg.ask(self.path, body, headers))
        self.trip.prefill_s = time.monotonic() - start
        return json.loads(said).get("kv_transfer_params")

    def decode(self, params: dict, headers: dict[str, str], send: Reply) -> None:
        start = time.monotonic()
        with Leg("decode", self.pair.decode, self.client) as leg:
            response = leg.ask(self.path, self.body | {"kv_transfer_params": params}, headers)
            while block := leg.read_some(response):
                if self.trip.decode_first_s is None:
                    self.trip.decode_first_s = time.monotonic() - start
                if not send.begun:
                    send.begin(200, response.getheader("Content-Type", "application/json"))
                send.data(block)


class Leg:
    """A request to one instance. A watcher cuts it off when the client leaves, as the instance must then learn."""

    def __init__(self, name: str, url: str, client: socket.socket) -> None:
        self.name, self.client = name, client
        self.connection = connect(url, TIMEOUT)
        self.over, self.left = threading.Event(), False

    def __enter__(self) -> "Leg":
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.connection.close()

    def ask(self, path: str, body: dict, headers: dict[str, str]) -> http.client.HTTPResponse:
        try:
            self.connection.request("POST", path, body=json.dumps(body), headers=headers)
            threading.Thread(target=self.watch, daemon=True).start()
            response = self.connection.getresponse()
            if response.status != 200:
                said = response.read()[:300].decode(errors="replace")
                raise Refused(self.name, f"{response.status} {said}")
            return response
        except (OSError, http.client.HTTPException) as error:
            raise self.reason(error) from error

    def read_all(self, response: http.client.HTTPResponse) -> bytes:
        try:
            return response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self.reason(error) from error

    def read_some(self, response: http.client.HTTPResponse) -> bytes:
        try:
            return response.read1(1 << 16)
        except (OSError, http.client.HTTPException) as error:
            raise self.reason(error) from error

    def reason(self, error: Exception) -> Exception:
        return ClientGone() if self.left else Refused(self.name, f"{type(error).__name__}: {error}")

    def watch(self) -> None:
        upstream = self.connection.sock
        while not self.over.is_set():
            try:
                readable, _, _ = select.select([self.client], [], [], 0.1)
                if readable and not self.client.recv(1, socket.MSG_PEEK):
                    self.left = True
                    upstream.shutdown(socket.SHUT_RDWR)
                    return
                if readable:
                    time.sleep(0.1)
            except (OSError, ValueError):
                return
