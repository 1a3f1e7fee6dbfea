"""Which web pages may send requests to the server: its own, and those that ``--origin`` lets in.

CORS only keeps the answers from other pages: a browser sends their simple requests all the same, and a POST is enough to start
a training. And a page whose name is made to mean 127.0.0.1 after it was loaded (DNS rebinding) is the server's own to a browser.
Browsers say which page sends a request (``Origin``) and under which name they know the server (``Host``), and no page can
change that. Other programs, such as 3D Slicer, send no ``Origin``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any
from urllib.parse import urlsplit

__all__ = ["CallerCheck", "parse_origin"]

logger = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

SAFE = ("GET", "HEAD", "OPTIONS")
PORTS = {"http": 80, "https": 443}
LONGEST = 200  # characters of a header in a message


class CallerCheck:
    """ASGI middleware that answers requests of other web pages with HTTP 403 and the reason.

    Args:
        app: what answers the other requests.
        origins: that may use methods other than GET, HEAD and OPTIONS, besides the one under whose name the server was called.
        hosts: the server's names and addresses; empty where they are not known, and none is refused.
    """

    def __init__(self, app: App, origins: Sequence[str] = (), hosts: Sequence[str] = ()) -> None:
        self.app = app
        self.origins = {parse_origin(origin) for origin in origins} - {None}
        self.hosts = {host.lower() for host in hosts}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        why = self._refusal(scope) if scope["type"] == "http" else None
        if why is None:
            await self.app(scope, receive, send)
            return
        logger.warning("%s %s: refused, %s", scope["method"], scope["path"], why)
        body = json.dumps({"detail": why}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 403, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _refusal(self, scope: Message) -> str | None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if self.hosts and _host(host) not in self.hosts:
            return (
                f"the server is not called {host[:LONGEST]!r}; use {', '.join(sorted(self.hosts))}, "
                "or start it with --origin and the address of the page that needs another name"
            )
        origin = headers.get(b"origin")
        if origin is None or scope["method"] in SAFE:
            return None
        sender = parse_origin(origin)
        # With the scheme of the page: a proxy may have taken the encryption off.
        if sender is not None and (sender in self.origins or sender == parse_origin(f"{sender[0]}://{host}")):
            return None
        return f"the web page {origin[:LONGEST]!r} may not change anything here; start the server with --origin to let it in"


def parse_origin(text: str) -> tuple[str, str, int] | None:
    """Scheme, host and port of an origin such as ``http://ohif.example:3000``; None where it is none."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    more = parts.path.strip("/") or parts.query or parts.fragment or parts.username is not None
    if parts.scheme not in PORTS or not parts.hostname or more:
        return None
    return parts.scheme, parts.hostname, port or PORTS[parts.scheme]


def _host(header: str) -> str | None:
    try:
        return urlsplit(f"//{header}").hostname
    except ValueError:
        return None
