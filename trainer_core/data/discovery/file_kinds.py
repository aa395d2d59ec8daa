"""What the files of a dataset folder are, judged by name alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from trainer_core.data.discovery.walk import File

DECODED = frozenset(["png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff", "avif"])
"""Endings of pictures that are decoded."""
UNDECODED = frozenset(
    ["jxl", "heic", "heif", "hif", "psd", "jp2", "exr", "tga", "svg", "dng", "cr2", "cr3", "nef", "arw", "orf", "rw2"]
)
"""Endings of pictures that have no decoder here: counted as found, and excluded by name."""
PICTURES = DECODED | UNDECODED
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
"""Hugging Face imagefolder's files, in order of preference."""
IGNORED_NAMES = frozenset(["readme", "license", "licence", "metadata", "dataset_infos", "thumbs", "desktop"])
"""Names (before the first dot) that belong in a dataset folder and need no mention unless a picture shares them."""
CACHES = frozenset(["npz", "npy", "pt", "pth", "safetensors", "db", "sqlite"])
VIDEOS = frozenset(["mp4", "mkv", "mov", "avi", "webm"])
ARCHIVES = frozenset(["zip", "tar", "gz", "7z", "rar"])
DESCRIPTIONS = {
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
class FilesByKind:
    """The files of a folder, sorted by kind."""

    pictures: list[File] = field(default_factory=list[File])
    sidecars: dict[str, dict[str, File]] = field(default_factory=dict[str, dict[str, File]])
    """caption ending -> stem of the picture -> file; the endings in the order of `caption.extensions`."""
    metadata: dict[str, list[File]] = field(default_factory=lambda: defaultdict[str, list[File]](list))
    """folder -> its metadata files."""
    others: Counter[str] = field(default_factory=Counter[str])
    """ending -> number of files that nothing reads."""


def caption_endings(extensions: Sequence[str]) -> tuple[str, ...]:
    """Normalise `caption.extensions`: lower case, with a dot."""
    return tuple(dict.fromkeys("." + extension.lower().lstrip(".") for extension in extensions))


def sort_files(files: Iterable[File], extensions: Sequence[str]) -> FilesByKind:
    """Sort files by kind.

    A picture is known by its ending, whatever is inside. Files of `SILENT` names are ignored, as are dot files (which
    the walk leaves out); all else that is neither picture nor caption nor metadata is counted in `others`.
    """
    endings = caption_endings(extensions)
    shelves = FilesByKind(sidecars={end: {} for end in endings})
    longest_first = sorted(endings, key=len, reverse=True)
    for file in files:
        if file.ending in PICTURES:
            shelves.pictures.append(file)
            continue
        lower = file.name.lower()
        if lower in METADATA:
            shelves.metadata[file.folder].append(file)
        elif caption := next((end for end in longest_first if lower.endswith(end)), None):
            shelves.sidecars[caption].setdefault(file.folder + file.name[: -len(caption)], file)
        elif not is_ignored(file.name):
            shelves.others[file.ending] += 1
    return shelves


def caption_file_of(shelves: FilesByKind, picture: File) -> File | None:
    """Return the caption file of a picture: of several, the one whose ending `caption.extensions` names first."""
    for found in shelves.sidecars.values():
        if picture.stem in found:
            return found[picture.stem]
    return None


def is_ignored(name: str) -> bool:
    """Return whether a file that nothing reads needs no mention."""
    return name.lower().partition(".")[0] in IGNORED_NAMES


def reason_to_ignore(file: File) -> str | None:
    """Return why a picture is certainly not meant to be trained on, if so."""
    if file.stem.lower().endswith(MASKS):
        return "mask: OneTrainer's -masklabel and -condlabel pictures are not trained on"
    if CONTROLS in f"/{file.folder}":
        return "control picture: folders named _controls are not trained on"
    return None


def reason_unreadable(file: File) -> str | None:
    """Return why a picture certainly cannot be read, if so."""
    if file.problem:
        return file.problem
    if file.ending in UNDECODED:
        return f"no decoder: .{file.ending} pictures are not read; save them as PNG or JPEG"
    try:
        file.path.encode()
    except UnicodeEncodeError:
        return "name is not UTF-8: rename the file"
    return None
