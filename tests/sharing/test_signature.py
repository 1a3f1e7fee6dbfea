"""Keys in files: kept from others, never overwritten, with a passphrase or without; other kinds are refused."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from typer.testing import CliRunner

from custom_components.errors import InputError
from custom_components.sharing.signature import check_signature, key_id, make_keys, read_private_key, read_public_key
from scripts.signing_key import app


def test_rfc_8032(tmp_path: Path) -> None:
    """Section 7.1, test 2."""
    public = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
    text = (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    key = Ed25519PublicKey.from_public_bytes(public)
    path = tmp_path / "a.sig"
    path.write_bytes(bytes.fromhex(text))
    check_signature(b"\x72", path, key)
    with pytest.raises(InputError, match="no signature of this manifest"):
        check_signature(b"\x73", path, key)


def test_a_signature_is_of_these_bytes_by_this_key(tmp_path: Path) -> None:
    private, public = make_keys(tmp_path / "key.pem")
    signature = tmp_path / "a.sig"
    signature.write_bytes(read_private_key(private).sign(b"manifest"))
    key = read_public_key(public)
    check_signature(b"manifest", signature, key)
    with pytest.raises(InputError, match=key_id(key)):
        check_signature(b"Manifest", signature, key)
    for position in (0, 31, 32, 63):
        data = bytearray(signature.read_bytes())
        data[position] ^= 1
        (tmp_path / "bad.sig").write_bytes(data)
        with pytest.raises(InputError, match="no signature of this manifest"):
            check_signature(b"manifest", tmp_path / "bad.sig", key)


def test_files_of_keys(tmp_path: Path) -> None:
    private, public = make_keys(tmp_path / "key.pem")
    assert public.name == "key.pub.pem"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    before = private.read_bytes()
    public.unlink()
    with pytest.raises(InputError, match="exists already"):
        make_keys(tmp_path / "key.pem")
    assert private.read_bytes() == before and not public.exists()
    with pytest.raises(InputError, match="cannot be written"):
        make_keys(tmp_path / "absent" / "key.pem")


def test_a_passphrase(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [str(tmp_path / "key.pem")], input="open sesame\nopen sesame\n")
    assert result.exit_code == 0, result.output
    private, public = tmp_path / "key.pem", read_public_key(tmp_path / "key.pub.pem")
    assert key_id(public) in result.stdout
    assert key_id(read_private_key(private, lambda: "open sesame").public_key()) == key_id(public)
    with pytest.raises(InputError, match="passphrase is another"):
        read_private_key(private, lambda: "close sesame")
    with pytest.raises(InputError, match="nobody to ask"):
        read_private_key(private)
    assert CliRunner().invoke(app, [str(private), "--plain"]).exit_code == 1


def test_other_files_are_no_keys(tmp_path: Path) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "ec.pem").write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "ec.pub.pem").write_bytes(other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (tmp_path / "text.pem").write_text("-----BEGIN PUBLIC KEY-----\nnonsense\n")
    for name in ("ec.pem", "text.pem", "absent.pem"):
        with pytest.raises(InputError, match=name):
            read_private_key(tmp_path / name)
    for name in ("ec.pub.pem", "text.pem", "absent.pem", "ec.pem"):
        with pytest.raises(InputError, match=name):
            read_public_key(tmp_path / name)
