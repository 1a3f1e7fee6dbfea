"""Signatures of a manifest: Ed25519 (RFC 8032), detached, 64 bytes, with keys in PEM as openssl writes them.

The signature is of the manifest's bytes, and the manifest holds the hash of every file: so it is of the bundle.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from custom_components.errors import InputError

__all__ = ["check_signature", "key_id", "make_keys", "read_private_key", "read_public_key"]

MAX_BYTES = 64 * 1024
LENGTH = 64


def make_keys(path: str | Path, passphrase: str | None = None) -> tuple[Path, Path]:
    """Make a pair of keys: ``path`` for the owner alone, ``<stem>.pub.pem`` beside it for everybody.

    Args:
        path: of the private key, PEM (PKCS #8).
        passphrase: it is encrypted with; None leaves it plain.

    Returns:
        The private key's file and the public one's.

    Raises:
        InputError: a file is there already, or cannot be written.
    """
    path = Path(path)
    public = path.with_name(f"{path.stem}.pub.pem")
    key = Ed25519PrivateKey.generate()
    sealed = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    texts = {
        path: (key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, sealed), 0o600),
        public: (key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), 0o644),
    }
    if there := [str(file) for file in texts if file.exists() or file.is_symlink()]:
        raise InputError(f"{there[0]}: exists already, and a key that is lost cannot be had again; choose another name")
    made: list[Path] = []
    try:
        for file, (text, mode) in texts.items():
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            made.append(file)
            with open(handle, "wb") as target:
                target.write(text)
    except OSError as error:
        for file in made:
            file.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose a folder you may write to") from None
    return path, public


def read_private_key(path: str | Path, ask: Callable[[], str] | None = None) -> Ed25519PrivateKey:
    """A key to sign with.

    Args:
        path: PEM.
        ask: called for the passphrase of a key that is encrypted.

    Raises:
        InputError: it cannot be read, is no Ed25519 key, or the passphrase is not its own.
    """
    data = _read(path)
    password = None
    if b"ENCRYPTED" in data.split(b"\n", 1)[0]:
        if ask is None:
            raise InputError(f"{path}: is encrypted, and there is nobody to ask for its passphrase; decrypt it with openssl pkey")
        password = ask().encode()
    try:
        key = load_pem_private_key(data, password)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        what = "its passphrase is another, or it is damaged" if password is not None else "is no private key in PEM"
        raise InputError(f"{path}: {what}; make one with scripts/signing_key.py") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{path}: is a key of another kind than Ed25519; make one with scripts/signing_key.py")
    return key


def read_public_key(path: str | Path) -> Ed25519PublicKey:
    """A key to check signatures with.

    Raises:
        InputError: it cannot be read, or is no Ed25519 public key in PEM.
    """
    data = _read(path)
    if b"PRIVATE" in data:
        raise InputError(f"{path}: is a private key, which should stay with who signs; give the public one")
    try:
        key = load_pem_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InputError(f"{path}: is no public key in PEM; get the .pub.pem file of who signed") from None
    if not isinstance(key, Ed25519PublicKey):
        raise InputError(f"{path}: is a key of another kind than Ed25519; get the .pub.pem file of who signed")
    return key


def check_signature(manifest: bytes, signature: str | Path, key: Ed25519PublicKey) -> None:
    """Ask that a signature be of this manifest, by this key.

    Args:
        manifest: the bytes of ``manifest.json``.
        signature: the file, 64 bytes.
        key: of who is said to have signed.

    Raises:
        InputError: there is no signature, it is damaged, or it is of something else or by another key.
    """
    if not Path(signature).is_file():
        raise InputError(f"{signature}: no such file, so the bundle is not signed; get one that is, or leave --public-key out")
    data = _read(signature)
    if len(data) != LENGTH:
        raise InputError(f"{signature}: has {len(data)} bytes, a signature has {LENGTH}; get the bundle again")
    try:
        key.verify(data, manifest)
    except InvalidSignature:
        raise InputError(
            f"{signature}: is no signature of this manifest by key {key_id(key)}; the bundle was changed, or another key signed"
        ) from None


def key_id(key: Ed25519PublicKey) -> str:
    """What two people can compare to see that they have the same key: the start of the SHA-256 of its 32 bytes."""
    return hashlib.sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:32]


def _read(path: str | Path) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    if len(data) > MAX_BYTES:
        raise InputError(f"{path}: is larger than a key or a signature is")
    return data
