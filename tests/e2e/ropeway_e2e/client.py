"""Requests to an OpenAI-compatible server, with the time to the first token."""

import http.client
import json
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Answer:
    """What one request gave."""

    tokens: list[int] = field(default_factory=list)
    first_s: float | None = None
    total_s: float = 0.0
    finish: str | None = None
    error: str | None = None

    @property
    def good(self) -> bool:
        return self.error is None and self.finish is not None


def connect(url: str, timeout: float) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    return http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port or 80, timeout=timeout)


def fetch(url: str, path: str, method: str = "GET", body: dict | None = None, timeout: float = 10) -> bytes:
    """The body of a 200 answer; anything else raises OSError with what was said."""
    connection = connect(url, timeout)
    try:
        text = None if body is None else json.dumps(body)
        connection.request(method, path, body=text, headers={"Content-Type": "application/json"})
        response = connection.getresponse()
        said = response.read()
    except http.client.HTTPException as error:
        raise OSError(f"{method} {url}{path}: {error!r}") from error
    finally:
        connection.close()
    if response.status != 200:
        raise OSError(f"{method} {url}{path}: {response.status} {said[:400].decode(errors='replace')}")
    return said


def body_of(tokens: list[int], max_tokens: int, **more: object) -> dict:
    """A greedy completion request for a prompt of token ids."""
    return {"model": "tiny", "prompt": tokens, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True,
            "stream": True, "return_token_ids": True} | more


def complete(url: str, body: dict, timeout: float = 180, leave_after: int | None = None,
             pause: float = 0.05) -> Answer:
    """Sends a streamed request and reads it to its end.

    With `leave_after` the connection is closed after that many tokens: 0 leaves before any answer is read, after `pause`
    seconds.
    """
    answer, start = Answer(), time.monotonic()
    connection = connect(url, timeout)
    try:
        connection.request("POST", "/v1/completions", body=json.dumps(body),
                           headers={"Content-Type": "application/json"})
        if leave_after == 0:
            time.sleep(pause)
            answer.error = "left early"
            return answer
        response = connection.getresponse()
        if response.status != 200:
            answer.error = f"{response.status} {response.read()[:400].decode(errors='replace')}"
            return answer
        read_events(response, answer, start, leave_after)
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        answer.error = f"{type(error).__name__}: {error}"
    finally:
        connection.close()
        answer.total_s = time.monotonic() - start
    return answer


def read_events(response: http.client.HTTPResponse, answer: Answer, start: float, leave_after: int | None) -> None:
    """Reads server-sent events; a stream without its closing mark is an error."""
    while line := response.readline():
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            if answer.finish is None:
                answer.error = "the stream ended without a finish reason"
            elif answer.finish == "error":
                answer.error = "the request ended with finish_reason error"
            return
        event = json.loads(data)
        if "error" in event:
            answer.error = str(event["error"])[:400]
            return
        for choice in event.get("choices", []):
            new = choice.get("token_ids") or []
            if new and answer.first_s is None:
                answer.first_s = time.monotonic() - start
            answer.tokens += new
            answer.finish = choice.get("finish_reason") or answer.finish
        if leave_after is not None and len(answer.tokens) >= leave_after:
            answer.error = "left early"
            return
    answer.error = "the stream broke off"
