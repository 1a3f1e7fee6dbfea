"""Requests that other web pages have a browser send are refused: by a server, and by the check alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from custom_components.label_app.callers import CallerCheck, parse_origin
from tests.label.conftest import HIPPOCAMPUS
from tests.label.servers import Server

OHIF = "http://ohif.example:3000"
OTHER = "http://elsewhere.example"


@pytest.fixture(scope="module")
def server(start: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> Server:
    root = tmp_path_factory.mktemp("callers")
    return start("--studies", root / "studies", "--state-dir", root / "state", "--bundle", HIPPOCAMPUS, "--origin", f"{OHIF}/")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"/train/{HIPPOCAMPUS}"),
        ("POST", f"/batch/infer/{HIPPOCAMPUS}"),
        ("POST", "/reload"),
        ("PUT", "/datastore/label?image=a"),
        ("DELETE", "/datastore/image?id=a"),
    ],
)
@pytest.mark.parametrize("origin", [OTHER, "null", "http://127.0.0.1:1"])
def test_another_web_page_starts_and_changes_nothing(server: Server, method: str, path: str, origin: str) -> None:
    """As a page does with ``fetch(url, {mode: "no-cors", method: "POST"})``, for which browsers ask no leave."""
    import requests

    headers = {"Origin": origin, "Content-Type": "text/plain"}
    answer = requests.request(method, server.url + path, headers=headers, data="{}", timeout=60)
    assert answer.status_code == 403
    assert f"the web page '{origin}' may not change anything" in answer.json()["detail"]
    assert f"{method} {path.split('?')[0]}: refused, the web page '{origin}'" in server.text()
    for tasks in ("train/", "batch/infer"):
        assert requests.get(f"{server.url}/{tasks}", timeout=60).status_code == 404  # none was ever started


def test_its_own_page_one_that_is_let_in_and_programs_may(server: Server) -> None:
    import requests

    local = server.url.replace("127.0.0.1", "localhost")
    for url, origin in ((server.url, server.url), (local, local), (server.url, OHIF), (server.url, None)):
        headers = {} if origin is None else {"Origin": origin}
        answer = requests.post(f"{url}/activelearning/first", headers=headers, json={}, timeout=60)
        assert answer.status_code == 200, answer.text
    asked = {"Origin": OHIF, "Access-Control-Request-Method": "POST"}
    answer = requests.options(f"{server.url}/activelearning/first", headers=asked, timeout=60)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, OHIF)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_page_whose_name_was_made_to_mean_this_machine_is_refused(server: Server, method: str) -> None:
    """To a browser such a page and the server are one: it reads answers, and a request's origin is its own."""
    import requests

    port = server.url.rsplit(":", 1)[1]
    headers = {"Host": f"rebound.example:{port}", "Origin": f"http://rebound.example:{port}"}
    answer = requests.request(method, f"{server.url}/info/", headers=headers, timeout=60)
    assert answer.status_code == 403
    assert f"the server is not called 'rebound.example:{port}'; use 127.0.0.1" in answer.json()["detail"]


# What follows needs no MONAI Label.


def status(check: dict[str, Any], method: str = "POST", **headers: str) -> int:
    """Of what the check answers, with an application behind it that says 200."""
    sent: list[dict[str, Any]] = []

    async def application(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def send(message: Any) -> None:
        sent.append(message)

    given = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": "/", "headers": given}
    asyncio.run(CallerCheck(application, **check)(scope, None, send))
    return int(sent[0]["status"])


LOOPBACK = {"origins": [OHIF], "hosts": ["127.0.0.1", "localhost", "::1"]}
OPEN = {"origins": [OHIF]}


@pytest.mark.parametrize(
    ("check", "method", "host", "origin", "expected"),
    [
        (LOOPBACK, "POST", "127.0.0.1:8000", "http://127.0.0.1:8000", 200),
        (LOOPBACK, "POST", "LOCALHOST:8000", "http://localhost:8000", 200),
        (LOOPBACK, "POST", "[::1]:8000", "http://[::1]:8000", 200),
        (LOOPBACK, "POST", "localhost", "https://localhost", 200),  # a proxy took the encryption off
        (LOOPBACK, "POST", "localhost:8000", "HTTP://OHIF.example:3000", 200),
        (LOOPBACK, "POST", "localhost:8000", "http://ohif.example:3001", 403),
        (LOOPBACK, "POST", "localhost:8000", "https://ohif.example:3000", 403),
        (LOOPBACK, "POST", "localhost:8000", "http://localhost:8001", 403),
        (LOOPBACK, "POST", "localhost:8000", "http://127.0.0.1:8000", 403),  # a page of another name, though of this machine
        (LOOPBACK, "POST", "localhost:8000", "http://localhost:8000.elsewhere.example", 403),
        (LOOPBACK, "POST", "localhost:8000", "http://localhost:8000@elsewhere.example", 403),
        (LOOPBACK, "POST", "localhost:8000", "", 403),
        (LOOPBACK, "POST", "localhost:8000", "null", 403),
        (LOOPBACK, "PATCH", "localhost:8000", OTHER, 403),
        (LOOPBACK, "GET", "localhost:8000", OTHER, 200),
        (LOOPBACK, "OPTIONS", "localhost:8000", OTHER, 200),
        (LOOPBACK, "GET", "elsewhere.example", None, 403),
        (LOOPBACK, "GET", "localhost.elsewhere.example:8000", None, 403),
        (LOOPBACK, "GET", "localhost@elsewhere.example", None, 403),
        (LOOPBACK, "GET", "[::1", None, 403),
        (LOOPBACK, "GET", "", None, 403),
        (OPEN, "POST", "server.example:8000", None, 200),
        (OPEN, "POST", "server.example:8000", "http://server.example:8000", 200),
        (OPEN, "POST", "server.example:8000", OTHER, 403),
    ],
)
def test_who_is_let_in(check: dict[str, Any], method: str, host: str, origin: str | None, expected: int) -> None:
    assert status(check, method, host=host, **({} if origin is None else {"origin": origin})) == expected


def test_what_is_no_request_passes() -> None:
    seen = []

    async def application(scope: Any, _receive: Any, _send: Any) -> None:
        seen.append(scope["type"])

    asyncio.run(CallerCheck(application, **LOOPBACK)({"type": "lifespan"}, None, None))
    assert seen == ["lifespan"]


@pytest.mark.parametrize(
    "text", ["", "*", "null", "ohif.example", "ohif.example:3000", "ftp://a", "http://", "http://a:b", "http://a/b"]
)
def test_what_is_no_origin(text: str) -> None:
    assert parse_origin(text) is None
