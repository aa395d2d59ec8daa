"""What the files of a dataset folder are, judged by name alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from trainer_core.data.walk import File

DECODED = frozenset(["png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff", "avif"])
"""Endings of pictures that are decoded."""
UNDECODED = frozenset(
    ["jxl", "heic", "heif", "hif", "psd", "jp2", "exr", "tga", "svg", "dng", "cr2", "cr3", "nef", "arw", "orf", "rw2"]
)
"""Endings of pictures that have no decoder here: counted as found, and excluded by name."""
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
"""Hugging Face imagefolder's files, in order of preference."""
SILENT = frozenset(["readme", "license", "licence", "metadata", "dataset_infos", "thumbs", "desktop"])
"""Names (before the first dot) that belong in a dataset folder and need no mention unless a picture shares them."""
CACHES = frozenset(["npz", "npy", "pt", "pth", "safetensors", "db", "sqlite"])
VIDEOS = frozenset(["mp4", "mkv", "mov", "avi", "webm"])
ARCHIVES = frozenset(["zip", "tar", "gz", "7z", "rar"])
OTHERS = {
    **dict.fromkeys(CACHES, "a cache of another trainer"),
    **dict.fromkeys(VIDEOS, "video"),
    **dict.fromkeys(ARCHIVES, "an archive: unpack it to use it"),
    "json": "JSON captions are not read: use .txt files or metadata.jsonl",
}
MASKS = ("-masklabel", "-condlabel")
"""Endings of OneTrainer's mask and conditioning pictures, before the extension."""
CONTROLS = "/_controls/"
"""ai-toolkit's folder of control pictures."""


@dataclass
class Shelves:
    """The files of a folder, sorted by kind. Sidecars and stems are keyed by folder + stem."""

    pictures: list[File] = field(default_factory=list[File])
    sidecars: dict[str, dict[str, File]] = field(default_factory=lambda: defaultdict[str, dict[str, File]](dict))
    """stem -> caption ending -> file."""
    metadata: dict[str, list[File]] = field(default_factory=lambda: defaultdict[str, list[File]](list))
    """folder -> its metadata files."""
    others: Counter[str] = field(default_factory=Counter[str])
    """ending -> number of files that nothing reads."""


def ending(name: str) -> str:
    """Return the part after the last dot in lower case, "" if there is none."""
    return name.rpartition(".")[2].lower() if "." in name else ""


def stem(file: File) -> str:
    """Return the folder and name without the extension."""
    return file.folder + file.name.rpartition(".")[0]


def caption_endings(extensions: Sequence[str]) -> tuple[str, ...]:
    """Normalise `caption.extensions`: lower case, with a dot."""
    return tuple(dict.fromkeys("." + extension.lower().lstrip(".") for extension in extensions))


def sort_files(files: Iterable[File], extensions: Sequence[str]) -> Shelves:
    """Sort files by kind.

    A picture is known by its ending, whatever is inside. Files of `SILENT` names are ignored, as are dot files (which
    the walk leaves out); all else that is neither picture nor caption nor metadata is counted in `others`.
    """
    shelves = Shelves()
    longest_first = sorted(caption_endings(extensions), key=len, reverse=True)
    for file in files:
        lower, kind = file.name.lower(), ending(file.name)
        if kind in DECODED or kind in UNDECODED:
            shelves.pictures.append(file)
        elif lower in METADATA:
            shelves.metadata[file.folder].append(file)
        elif caption := next((end for end in longest_first if lower.endswith(end)), None):
            shelves.sidecars[file.folder + file.name[: -len(caption)]].setdefault(caption, file)
        elif not is_silent(file.name):
            shelves.others[kind] += 1
    return shelves


def is_silent(name: str) -> bool:
    """Return whether a file that nothing reads needs no mention."""
    return name.lower().partition(".")[0] in SILENT


def set_aside(file: File) -> str | None:
    """Return why a picture is certainly not meant to be trained on, if so."""
    kind = ending(file.name)
    if file.problem:
        return file.problem
    if kind in UNDECODED:
        return f"no decoder: .{kind} pictures are not read; save them as PNG or JPEG"
    if stem(file).lower().endswith(MASKS):
        return "mask: OneTrainer's -masklabel and -condlabel pictures are not trained on"
    if CONTROLS in f"/{file.folder}":
        return "control picture: folders named _controls are not trained on"
    try:
        file.relative.encode()
    except UnicodeEncodeError:
        return "name is not UTF-8: rename the file"
    return None
