"""Says to a proxy of the layerwise kind where a prompt's KV is to be written: it then asks a producer for it."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from urllib.parse import urlsplit

# For it to be reached and to take the words; and to answer, which it may do when the prompt is computed. A refusal that comes
# later than that is not heard: the lease then ends by its own times.
_TELL_SECONDS = 10.0
_ANSWER_SECONDS = 120.0


def post(request: str, url: str, body: str, failed: Callable[[str, str], None]) -> threading.Thread:
    """Posts from a thread of its own; `failed` is called with the request and why. The addresses were checked before."""
    thread = threading.Thread(target=_post, args=(request, url, body, failed), name="ropeway-ask", daemon=True)
    thread.start()
    return thread


def _post(request: str, url: str, body: str, failed: Callable[[str, str], None]) -> None:
    try:
        status = _status(url, body)
    except (OSError, http.client.HTTPException, ValueError) as error:
        failed(request, f"{url}: {type(error).__name__}: {error}")
    else:
        if status is not None and status >= 300:
            failed(request, f"{url}: it answers {status}")


def _status(url: str, body: str) -> int | None:
    """What it answers; None when it takes its time."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.netloc, timeout=_TELL_SECONDS)
    try:
        path = parts.path or "/"
        connection.request("POST", f"{path}?{parts.query}" if parts.query else path, body=body,
                           headers={"Content-Type": "application/json"})
        connection.sock.settimeout(_ANSWER_SECONDS)
        try:
            return connection.getresponse().status
        except TimeoutError:
            return None
    finally:
        connection.close()
