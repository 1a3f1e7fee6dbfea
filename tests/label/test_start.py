"""``scripts/serve.py`` before it serves: what it says, refuses and warns of; and MONAI Label's authentication."""

from __future__ import annotations

import base64
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.label.conftest import HIPPOCAMPUS, ROOT
from tests.label.servers import Server

ROLES = ("monailabel-user", "monailabel-annotator", "monailabel-reviewer", "monailabel-admin")


@pytest.fixture(scope="module")
def keys(label_server: None) -> tuple[Any, str]:
    """A private key, and its public one as a realm gives it."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    public = key.public_key().public_bytes(serialization.Encoding.DER, form)
    return key, base64.b64encode(public).decode()


@pytest.fixture(scope="module")
def realm(keys: tuple[Any, str]) -> Iterator[str]:
    """The one page of an identity provider that MONAI Label reads to check a token."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"realm": "monailabel", "public_key": keys[1]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as pages:
        thread = threading.Thread(target=pages.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{pages.server_port}/realms/monailabel"
        pages.shutdown()


@pytest.fixture(scope="module")
def guarded(start: Callable[..., Server], realm: str, tmp_path_factory: pytest.TempPathFactory) -> Server:
    root = tmp_path_factory.mktemp("guarded")
    settings = {"MONAI_LABEL_AUTH_ENABLE": "true", "MONAI_LABEL_AUTH_REALM_URI": realm}
    return start("--studies", root / "studies", "--state-dir", root / "state", "--bundle", HIPPOCAMPUS, **settings)


def token(key: Any, roles: tuple[str, ...], lasts: int = 600) -> dict[str, str]:
    import jwt

    claims = {"preferred_username": "someone", "realm_access": {"roles": list(roles)}, "exp": int(time.time()) + lasts}
    return {"Authorization": f"Bearer {jwt.encode(claims, key, algorithm='RS256')}"}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/info/"),
        ("GET", "/datastore/"),
        ("GET", "/datastore/image?image=a"),
        ("DELETE", "/datastore/image?id=a"),
        ("PUT", "/datastore/label?image=a"),
        ("POST", f"/infer/{HIPPOCAMPUS}?image=a"),
        ("POST", f"/train/{HIPPOCAMPUS}"),
        ("POST", f"/batch/infer/{HIPPOCAMPUS}"),
        ("GET", f"/model/{HIPPOCAMPUS}"),
        ("GET", "/logs/"),
    ],
)
def test_with_authentication_a_request_without_a_good_token_is_refused(
    guarded: Server, keys: tuple[Any, str], method: str, path: str
) -> None:
    import jwt
    import requests
    from cryptography.hazmat.primitives.asymmetric import rsa

    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    unsigned = jwt.encode({"preferred_username": "x", "realm_access": {"roles": list(ROLES)}}, None, algorithm="none")
    # Signed with the public key as if it were a shared secret.
    secret = "-----BEGIN PUBLIC KEY-----\n" + keys[1] + "\n-----END PUBLIC KEY-----"
    symmetric = _signed_with_secret(secret)
    for headers in (
        {},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": f"Bearer {unsigned}"},
        {"Authorization": f"Bearer {symmetric}"},
        token(stranger, ROLES),
        token(keys[0], ROLES, lasts=-600),
    ):
        assert requests.request(method, guarded.url + path, headers=headers, timeout=60).status_code == 401


def test_with_authentication_a_token_opens_what_its_role_may(guarded: Server, keys: tuple[Any, str]) -> None:
    import requests

    user, admin = token(keys[0], ROLES[:1]), token(keys[0], ROLES)
    assert requests.get(f"{guarded.url}/info/", headers=user, timeout=60).status_code == 200
    assert requests.post(f"{guarded.url}/train/{HIPPOCAMPUS}", headers=user, timeout=60).status_code == 403
    assert requests.delete(f"{guarded.url}/datastore/image?id=a", headers=user, timeout=60).status_code == 403
    assert requests.get(f"{guarded.url}/model/{HIPPOCAMPUS}", headers=admin, timeout=60).status_code == 404
    assert requests.get(f"{guarded.url}/info/", headers=token(keys[0], ("stranger",)), timeout=60).status_code == 403


def _signed_with_secret(secret: str) -> str:
    """An HS256 token by hand: PyJWT refuses to make one with a public key."""
    import hashlib
    import hmac

    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    claims = {"preferred_username": "x", "realm_access": {"roles": list(ROLES)}, "exp": int(time.time()) + 600}
    text = ".".join(part(json.dumps(v).encode()) for v in ({"alg": "HS256", "typ": "JWT"}, claims))
    return f"{text}.{part(hmac.new(secret.encode(), text.encode(), hashlib.sha256).digest())}"


# What follows needs no MONAI Label.


def serve(*arguments: object, **environment: str) -> Any:
    return CliRunner().invoke(_module().app, [str(argument) for argument in arguments], env={"COLUMNS": "200", **environment})


def _module() -> Any:
    import importlib.util

    spec = importlib.util.spec_from_file_location("serve", ROOT / "scripts" / "serve.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_list_names_what_is_served_and_why_others_are_not(tmp_path: Path) -> None:
    result = serve("--studies", tmp_path / "studies", "--state-dir", tmp_path / "state", "--list")
    assert result.exit_code == 0
    assert "hippocampus_mri_segmentation" in result.stdout
    assert not (tmp_path / "state").exists() and not (tmp_path / "studies").exists()
    for path in sorted((ROOT / "bundles").iterdir()):
        if path.is_dir() and not (path / "models" / "trunk.safetensors").is_file():
            assert f"Left out: {path.name}: " in result.stderr
            assert path.name not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--bundles-dir", "{tmp}/nowhere"), "nowhere: no such folder"),
        (("--bundles-dir", "{tmp}"), "has no bundle (a folder with configs/inference.json)"),
        (("--bundle", "kidney"), "has no bundle kidney; it has abdomen_mri_segmentation"),
        (("--bundles-dir", "{tmp}/empty"), "no bundle can be served"),
        (("--bundles-dir", "{tmp}/empty", "--bundle", "one"), "the bundle asked for can be served"),
    ],
)
def test_what_cannot_be_served_is_one_error(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    shutil.copytree(ROOT / "bundles" / HIPPOCAMPUS / "configs", tmp_path / "empty" / "one" / "configs")
    given = [argument.format(tmp=tmp_path) for argument in arguments]
    result = serve("--studies", tmp_path / "studies", "--state-dir", tmp_path / "state", *given)
    assert result.exit_code == 1
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert said in error
    assert not (tmp_path / "state").exists()


def test_weights_that_do_not_fit_are_left_out(tmp_path: Path) -> None:
    bundles = tmp_path / "bundles"
    for name in ("good", "harmed"):
        shutil.copytree(ROOT / "bundles" / HIPPOCAMPUS, bundles / name)
    adapter = bundles / "harmed" / "models" / "hippocampus_mri.safetensors"
    content = bytearray(adapter.read_bytes())
    content[-1] ^= 1
    adapter.write_bytes(content)
    result = serve("--studies", tmp_path / "studies", "--state-dir", tmp_path / "state", "--bundles-dir", bundles, "--list")
    assert result.exit_code == 0
    assert "good" in result.stdout and "harmed" not in result.stdout
    assert "Left out: harmed: " in result.stderr and "the file was changed" in result.stderr


@pytest.mark.parametrize(
    ("host", "authentication", "warned"),
    [("127.0.0.1", "", False), ("localhost", "", False), ("::1", "", False), ("0.0.0.0", "", True), ("0.0.0.0", "true", False)],
)
def test_an_open_door_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str, authentication: str, warned: bool
) -> None:
    module, called = _module(), []
    monkeypatch.setattr(module, "_check_installed", lambda: None)
    monkeypatch.setattr(module.os, "execve", lambda *call: called.append(call))
    arguments = ["--studies", str(tmp_path / "studies"), "--state-dir", str(tmp_path / "state"), "--host", host]
    result = CliRunner().invoke(module.app, arguments, env={"COLUMNS": "200", "MONAI_LABEL_AUTH_ENABLE": authentication or None})
    assert result.exit_code == 0, result.output
    assert ("authentication is off" in result.stderr) == warned
    ((_, command, _),) = called
    assert command[command.index("--host") + 1] == host


@pytest.mark.parametrize(
    ("host", "origins", "hosts"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000,http://localhost:8000", "127.0.0.1,localhost,::1"),
        ("::1", "http://[::1]:8000,http://127.0.0.1:8000,http://localhost:8000", "::1,127.0.0.1,localhost"),
        ("0.0.0.0", "http://0.0.0.0:8000,http://127.0.0.1:8000,http://localhost:8000", None),
    ],
)
def test_the_server_knows_its_names_and_who_is_let_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str, origins: str, hosts: str | None
) -> None:
    module, called = _module(), []
    monkeypatch.setattr(module, "_check_installed", lambda: None)
    monkeypatch.setattr(module.os, "execve", lambda *call: called.append(call))
    arguments = ["--studies", str(tmp_path / "studies"), "--state-dir", str(tmp_path / "state"), "--host", host]
    result = CliRunner().invoke(module.app, [*arguments, "--origin", "https://ohif.example:3000/"])
    assert result.exit_code == 0, result.output
    ((_, command, _),) = called
    conf = {command[i + 1]: command[i + 2] for i, part in enumerate(command) if part == "--conf"}
    assert conf["origins"] == f"{origins},https://ohif.example:3000"
    assert conf.get("hosts") == (hosts and f"{hosts},ohif.example")


@pytest.mark.parametrize("origin", ["*", "ohif.example:3000", "http://ohif.example/viewer"])
def test_an_origin_that_is_none_is_an_error(tmp_path: Path, origin: str) -> None:
    result = serve("--studies", tmp_path / "studies", "--state-dir", tmp_path / "state", "--origin", origin, "--list")
    assert result.exit_code == 1
    assert f"Error: --origin {origin}: is no web page's origin" in result.stderr


def test_without_monai_label_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import importlib.util

    module, find = _module(), importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "monailabel" else find(name, *more))
    result = CliRunner().invoke(module.app, ["--studies", str(tmp_path / "s"), "--state-dir", str(tmp_path / "t")])
    assert result.exit_code == 1
    assert "start with: bash scripts/serve.sh" in result.stderr
