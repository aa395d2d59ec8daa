"""Captions that are longer than what the text encoder reads, found with its tokenizer alone and remembered.

What a tokenizer makes of a caption is a fact about both, so a caption is counted once: a project that did not change
asks the index and loads nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trainer_core.config.groups import TextConfig
from trainer_core.errors import ModelError
from trainer_core.families.shared.loading import load_tokenizer
from trainer_core.families.spec import FamilySpec, TextLimit
from trainer_core.stages.project.session import Session
from trainer_core.store.keys import digest
from trainer_core.types import JSON, Finding

_VERSION = 1
_SHOWN, _WORDS = 3, 40
"""Samples named, and characters shown of what they lose."""
_MOST_CLIP = 225
_AT_ONCE = 1000


def truncation_findings(session: Session) -> list[Finding]:
    """Return a warning for each tokenizer that cuts captions; nothing while the base model is not there.

    Raises:
        DatasetError: the dataset cannot be looked at.
    """
    try:
        source = session.workspace.source
    except ModelError:
        return []
    captions: dict[str, str] = {}
    for sample in session.workspace.scanned.manifest.samples:
        for caption in sample.texts or (sample.caption,):
            captions.setdefault(caption, sample.id)
    return [
        finding
        for limit in source.spec.text.limits
        if (finding := _finding(session, limit, captions, len(session.workspace.scanned.manifest.samples))) is not None
    ]


def text_length(spec: FamilySpec, text: TextConfig) -> int:
    """Return the tokens that a family's (longest) text encoder reads, those that are not the caption's included."""
    return spec.text.tokens(text.max_length)


def _finding(session: Session, limit: TextLimit, captions: Mapping[str, str], samples: int) -> Finding | None:
    spec, text, index = session.workspace.family.spec, session.project.text, session.workspace.store.index
    pieces, length = text.clip_tokens if spec.text.long_captions else 0, text_length(spec, text)
    long = {one: name for one, name in captions.items() if not _surely_whole(one, limit, pieces or length)}
    if not long:
        return None
    tokenizer = session.workspace.base.tokenizer_fingerprint(limit.tokenizer)
    kind = f"tokens {_VERSION} {digest([spec.identity, tokenizer, length, pieces])}"
    # All captions together are a fact as well: a no-op over 10,000 of them asks for one.
    whole = hashlib.sha256(json.dumps([long, len(captions), samples]).encode()).hexdigest()
    stored = index.facts(kind, [whole]).get(whole)
    if stored is None:
        stored = _truncation(limit, _counted(session, limit, kind, long), len(captions), samples)
        stored |= {"fix": _fix(spec, text, stored["longest"])} if stored else {}
        index.remember(kind, {whole: stored})
    return Finding("warning", "datasets", stored["message"], stored["fix"]) if stored else None


def _counted(
    session: Session, limit: TextLimit, kind: str, captions: Mapping[str, str]
) -> list[tuple[str, dict[str, JSON]]]:
    """Return (sample id, what `_cuts` tells) of every caption that is cut; new ones are counted, and remembered."""
    spec, text, index = session.workspace.family.spec, session.project.text, session.workspace.store.index
    hashes = {caption: hashlib.sha256(caption.encode()).hexdigest() for caption in captions}
    known = index.facts(kind, hashes.values())
    if new := [caption for caption in captions if hashes[caption] not in known]:
        pieces = text.clip_tokens if spec.text.long_captions else 0
        cuts = _cuts(session, limit, new, pieces, text_length(spec, text))
        found = dict(zip((hashes[one] for one in new), cuts, strict=True))
        index.remember(kind, found)
        known |= found
    return [(name, known[hashes[caption]]) for caption, name in captions.items() if known[hashes[caption]]]


def _truncation(
    limit: TextLimit, cut: Sequence[tuple[str, dict[str, JSON]]], captions: int, samples: int
) -> dict[str, JSON]:
    """Return the message, and the tokens of the longest caption; nothing if none is cut."""
    if not cut:
        return {}
    listed = "; ".join(f"{name} ({one['tokens']} tokens, lost from {one['lost']!r})" for name, one in cut[:_SHOWN])
    more = f"; and {len(cut) - _SHOWN} more" if len(cut) > _SHOWN else ""
    message = f"{limit.reader} reads {cut[0][1]['most']} tokens of a caption and cuts {len(cut)} of {captions} "
    message += f"captions ({samples} samples): {listed}{more}."
    return {"message": message, "longest": max(one["tokens"] for _, one in cut)}


def _fix(spec: FamilySpec, text: TextConfig, longest: int) -> str:
    if spec.text.long_captions and text.clip_tokens < _MOST_CLIP:
        enough = next((most for most in (150, 225) if most >= longest), _MOST_CLIP)
        return f"Set text.clip_tokens to {enough}, or shorten them."
    return "Raise text.max_length, or shorten them." if spec.text.choosable_length else "Shorten them."


def _surely_whole(caption: str, limit: TextLimit, length: int) -> bool:
    """Say whether a caption is too short to be cut, whatever its tokenizer: a token stands for a letter or more."""
    if callable(limit.before) or not caption.isascii():
        return False
    return len(caption.encode()) + len(limit.before.encode()) + limit.spare < length


def _cuts(
    session: Session, limit: TextLimit, captions: Sequence[str], pieces: int, length: int
) -> Iterator[dict[str, JSON]]:
    """Yield for each caption its tokens, how many are read and what the rest begins with; nothing if all are."""
    tokenizer = _tokenizer(session, limit.tokenizer)
    most = pieces or own_tokens(tokenizer, limit, length)
    for start in range(0, len(captions), _AT_ONCE):
        some = list(captions[start : start + _AT_ONCE])
        tokens = tokenizer(some, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        for caption, spans in zip(some, tokens["offset_mapping"], strict=True):
            if len(spans) <= most:
                yield {}
            else:
                lost = caption[spans[most][0] :].strip()
                yield {"tokens": len(spans), "most": most, "lost": lost[:_WORDS]}


def own_tokens(tokenizer: Any, limit: TextLimit, length: int) -> int:
    """Return how many of the `length` tokens that an encoder reads can be a caption's own."""
    before = limit.before() if callable(limit.before) else limit.before
    return length - limit.spare - len(tokenizer(before, add_special_tokens=False).input_ids)


def _tokenizer(session: Session, name: str) -> Any:
    loaded = load_tokenizer(session.workspace.source, name)
    return getattr(loaded, "tokenizer", loaded)
