"""Digests: the names of everything in the store, and the checksums of small records."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

from trainer_core.types import JSON

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


def canonical_json(value: JSON) -> bytes:
    """Give the one spelling of a JSON value: sorted keys, no spaces, UTF-8.

    Raises:
        ValueError: the value holds a NaN or an infinity.
        TypeError: the value is not JSON.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    # File names that are not UTF-8 arrive as lone surrogates: they must have a digest too.
    return text.encode("utf-8", "surrogatepass")


def digest(value: JSON) -> str:
    """SHA-256, in hex, of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256, in hex, of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(record: Mapping[str, JSON]) -> bytes:
    """Bytes of a record that carries its own digest; `unseal` reads them back."""
    return canonical_json({**record, "digest": digest(dict(record))}) + b"\n"


def unseal(raw: bytes) -> dict[str, JSON]:
    """Read what `seal` wrote.

    Raises:
        ValueError: any byte differs from what `seal` wrote.
    """
    try:
        record: JSON = json.loads(raw.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error})") from error
    if not isinstance(record, dict) or "digest" not in record:
        raise ValueError("no digest in it")
    contents: dict[str, JSON] = {str(name): value for name, value in record.items() if name != "digest"}  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    # Comparing bytes also catches flips that JSON forgives, such as one kind of white space for another.
    if seal(contents) != raw:
        raise ValueError("its bytes do not match the digest in it")
    return contents


def check_name(name: str) -> str:
    """Return `name` if it can be a file name everywhere; anything else is our own bug."""
    assert _NAME.fullmatch(name), f"not a name for the store: {name!r}"
    return name
