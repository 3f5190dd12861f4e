"""The signature of a release: Ed25519 over its digest. One key signs, its public half checks."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..contract import ProjectError
from ..files import atomic

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

KEYS = Path(".keys")
PRIVATE, PUBLIC = KEYS / "release.pem", KEYS / "release.pub"
SIGNS, CHECKS = "RELEASE_KEY", "RELEASE_PUBLIC_KEY"
"""Environment variables that hold a key instead of a file."""
BLOCK = re.compile(r"-----BEGIN [^-]+-----.*?-----END [^-]+-----|\S+", re.DOTALL)


def make_key() -> Path | None:
    """Make the key that signs here, and its public half; return its path, or None where a key is there already.

    A folder that holds nothing but public keys belongs to a machine that only checks: it gets no key of its own.
    """
    if os.environ.get(SIGNS) or os.environ.get(CHECKS):
        return None
    if PRIVATE.is_file():
        if not PUBLIC.is_file():  # a killed process left the one without the other
            _write_public()
        return None
    if any(KEYS.glob("*.pub")):
        return None

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    made = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with atomic(PRIVATE) as path:
        KEYS.chmod(0o700)
        path.chmod(0o600)
        path.write_bytes(made)
    _write_public()
    return PRIVATE


def signature(digest: str) -> str:
    """Return the signature of a release's digest, 64 bytes in Base64.

    Raises ProjectError where this machine has no key that signs.
    """
    return base64.b64encode(_signing_key().sign(digest.encode("ascii"))).decode("ascii")


def refuse_unsigned(digest: str, signature: str) -> None:
    """Raise ProjectError unless a key that this machine trusts made the signature of a release's digest."""
    from cryptography.exceptions import InvalidSignature

    try:
        given = base64.b64decode(signature, validate=True)
    except ValueError:
        given = b""
    keys = list(_trusted())
    for key in keys:
        try:
            key.verify(given, digest.encode("ascii"))
        except InvalidSignature:
            continue
        return
    if not keys:
        raise ProjectError(
            f"no public key is here that could check release {digest[:12]}: put the signer's {PUBLIC.name} into "
            f"{KEYS}/, or its content into the environment as {CHECKS}"
        )
    raise ProjectError(
        f"release {digest[:12]} is not signed by a key that is trusted here: if another machine released it, put its "
        f"{PUBLIC.name} into {KEYS}/ under a name that ends in .pub"
    )


def _signing_key() -> Ed25519PrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    given = os.environ.get(SIGNS, "").strip()
    if not given and not PRIVATE.is_file():
        raise ProjectError(f"no key signs here: run `make setup` for {PRIVATE}, or give one as {SIGNS}")
    try:
        key = load_pem_private_key(given.encode() if given else PRIVATE.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ProjectError(f"{SIGNS if given else PRIVATE}: is no private Ed25519 key in PEM without a password")
    return key


def _trusted() -> Iterator[Ed25519PublicKey]:
    """Yield the public keys of the environment, or else those of the folder and the public half of RELEASE_KEY."""
    given = os.environ.get(CHECKS, "").strip()
    if given:
        for block in BLOCK.findall(given):
            yield _public(block, CHECKS)
        return
    for path in sorted(KEYS.glob("*.pub")):
        for block in BLOCK.findall(path.read_text(encoding="utf-8", errors="replace")):
            yield _public(block, f"{path}")
    if os.environ.get(SIGNS, "").strip():
        yield _signing_key().public_key()


def _public(text: str, where: str) -> Ed25519PublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        if not text.startswith("-----BEGIN"):
            return Ed25519PublicKey.from_public_bytes(base64.b64decode(text, validate=True))
        key = load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ProjectError(f"{where}: holds something that is no public Ed25519 key, in PEM or as 32 bytes in Base64")
    return key


def _write_public() -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = _signing_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with atomic(PUBLIC) as path:
        path.write_bytes(public)
