"""Base models named by their Hugging Face id: found in the hub's cache, downloaded only when a run asks for it.

No torch here, and no network but in `download`.
"""

from __future__ import annotations

import re
from pathlib import Path

from trainer_core.errors import ModelError

_SHA256 = re.compile(r"[0-9a-f]{64}")
WANTED = ("model_index.json", *(f"*/*.{ending}" for ending in ("json", "txt", "model", "jinja", "safetensors")))
"""What loading a pipeline reads: no single-file copies beside the folders, no pickled weights, no ONNX files."""
UNWANTED = ("*.fp16.*", "*.bf16.*", "*.non_ema.*", "*onnx*", "*openvino*", "safety_checker/*")


def cached(repo: str, revision: str | None) -> Path | None:
    """Return the folder of a snapshot in the cache, without asking the hub; None if it is not there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = snapshot_download(repo, revision=revision, local_files_only=True)
    except (LocalEntryNotFoundError, OSError, ValueError):
        return None
    return Path(folder)


def download(repo: str, revision: str | None) -> Path:
    """Return the folder of a snapshot, downloaded if the cache lacks any of it; a download that was cut short goes on.

    Raises:
        ModelError: the hub cannot be reached, or has no such model.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(repo, revision=revision, allow_patterns=list(WANTED), ignore_patterns=list(UNWANTED))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ModelError(
            f"model.path: {repo} could not be downloaded from the hub ({type(error).__name__}: {error}). "
            "Look at the spelling, the network, and whether the model wants a login (`hf auth login`)."
        ) from error
    return Path(folder)


def blob_sha256(path: Path) -> str | None:
    """Return the SHA-256 of a file that lies in the cache under it, as large files do; None for any other file."""
    if not path.is_symlink():
        return None
    blob = path.resolve()
    return blob.name if blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name) else None
