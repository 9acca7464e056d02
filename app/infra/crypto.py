"""Encryption of what is stored: AES-256-GCM under a data key per tenant, itself under the master key.

Everything sealed is bound to where it belongs by its associated data, so a row copied to another place
does not open there. A sealed value is 12 bytes of nonce, then ciphertext and tag.
"""

import base64
import binascii
import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app.errors import StartupError

KEY_BYTES = 32
_NONCE_BYTES = 12


class CannotOpen(Exception):
    """A sealed value does not open: another key, another place, or changed bytes."""


def new_key() -> bytes:
    return AESGCM.generate_key(KEY_BYTES * 8)


def seal(key: bytes, plain: bytes, place: tuple[str, ...]) -> bytes:
    """Encrypts `plain` so that it opens only with `key` and at `place`."""
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plain, _associated(place))


def unseal(key: bytes, sealed: bytes, place: tuple[str, ...]) -> bytes:
    """The plain bytes. Raises CannotOpen."""
    try:
        return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _associated(place))
    except (InvalidTag, ValueError):
        raise CannotOpen from None


def _associated(place: tuple[str, ...]) -> bytes:
    # Lengths first, so that ("a", "bc") and ("ab", "c") differ.
    return b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in place)


def decode_master_key(text: str, origin: str) -> bytes:
    """The key's bytes from base64 (standard or URL-safe). Raises StartupError."""
    try:
        key = base64.b64decode(text.strip().replace("-", "+").replace("_", "/"), validate=True)
    except (ValueError, binascii.Error):
        key = b""
    if len(key) != KEY_BYTES:
        raise StartupError(
            f"The master key in {origin} is not {KEY_BYTES} bytes in base64.",
            remedy="Restore the right one; a new one is made by: openssl rand -base64 32",
        )
    return key


def master_key_from_file(path: Path, *, create: bool = True) -> bytes:
    """Reads the key file, or makes it (mode 0600) if there is none and it may. Raises StartupError."""
    try:
        if path.exists():
            return decode_master_key(path.read_text("ascii", "replace"), str(path))
        if not create:
            raise StartupError(
                f"The database is encrypted, but its master key {path} is gone.",
                remedy="Restore the file from your backup, or give the key in TRUNKLINE_MASTER_KEY.",
            )
        key = new_key()
        write_private(path, base64.b64encode(key).decode() + "\n")
    except OSError as error:
        raise StartupError(
            f"The master key file {path} cannot be used ({error.strerror}).",
            remedy="Correct its permissions, or give the key in TRUNKLINE_MASTER_KEY.",
        ) from None
    return key


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner can read, durably, replacing what was there in one step."""
    partial = path.with_name(path.name + ".new")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
