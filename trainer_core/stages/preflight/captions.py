"""Findings about captions that differ from draw to draw: how many texts are encoded, and how large they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from trainer_core.data.captions.caption_variants import count_possible_texts
from trainer_core.data.captions.sample_captions import encodes_captions_live
from trainer_core.data.names import join_names, pluralize
from trainer_core.errors import ModelError
from trainer_core.stages.project.session import Session
from trainer_core.types import CaptionRules, Finding, Sample

_WIDTHS = ("caption_channels", "cross_attention_dim", "joint_attention_dim", "cap_feat_dim", "in_text_dim")
"""What denoisers of diffusers call the numbers that stand for a token."""
_HUGE = 10**15


def varied_caption_findings(session: Session) -> list[Finding]:
    """Return the findings; none where every caption has one text."""
    manifest = session.workspace.scanned.manifest
    varied = [sample for sample in manifest.samples if sample.source is not None]
    return [*_lines(varied, session), *_texts(varied, session)] if varied else []


def uncalled_concept_findings(session: Session) -> list[Finding]:
    """Return a warning where no picture of the concept has a word to call it by.

    Captions that share no word are no reason: those of a style need none, as it is meant to be there without a call.
    """
    samples = [one for one in session.workspace.scanned.manifest.samples if not one.regularisation]
    if not samples or any(text.strip() for one in samples for text in (one.caption, *one.texts)):
        return []
    message = (
        "is empty, and no picture has a caption: no word stands for what is trained, so the LoRA changes every picture."
    )
    fix = "Set it to a word for what the pictures show, or write captions."
    return [Finding("warning", "caption.trigger_word", message, fix)]


def _lines(varied: Sequence[Sample], session: Session) -> Iterator[Finding]:
    limit = session.project.caption.variants
    cut = [one.id for one in varied if one.texts and one.source is not None and len(one.source.lines) > limit]
    if cut:
        files = pluralize(len(cut), "caption file")
        message = f"is {limit}, but {files} have more lines, of which so many are chosen by seed: "
        yield Finding("warning", "caption.variants", f"{message}{join_names(cut, 5)}.", "Raise it to use all lines.")


def _texts(varied: Sequence[Sample], session: Session) -> Iterator[Finding]:
    assert varied[0].source is not None
    causes = ", ".join(_causes(varied[0].source.rules, varied)) or "lines"
    begun = f"captions differ from draw to draw ({causes}): "
    if encodes_captions_live(session.project.text.cache, session.project.adapter.text_encoders):
        yield Finding("info", "text.cache", f"{begun}any text is drawn, and encoded when it is.", "")
        return
    limit = session.project.caption.variants
    possible = {one.id: count_possible_texts(one.source) for one in varied if one.source is not None}
    whole = [one for one in varied if possible[one.id] <= limit]
    drawn = [one for one in varied if possible[one.id] > limit]
    parts: list[str] = []
    if whole:
        parts.append(f"all {_range(possible[one.id] for one in whole)} texts of {_captions(whole)}")
    if drawn:
        most = max(len(set(one.texts)) for one in drawn)
        parts.append(f"{most} of {_range(possible[one.id] for one in drawn)} texts of {_captions(drawn)}")
    total = len({text for one in varied for text in one.texts})
    size = _size(session, total)
    message = f"{begun}{' and '.join(parts)} are encoded: {total:,} different texts{size}."
    fix = "Raise it, or set `text.cache: never` so that any text is drawn." if drawn else ""
    yield Finding("info", "caption.variants", message, fix)


def _causes(rules: CaptionRules, varied: Sequence[Sample]) -> Iterator[str]:
    if any(one.source is not None and len(one.source.lines) > 1 for one in varied):
        yield "lines in turn" if rules.in_turn else "random lines"
    drawn = {"wildcards": rules.wildcards, "shuffled tags": rules.shuffle, "tag dropout": rules.dropout}
    yield from (name for name, asked in drawn.items() if asked)


def _captions(samples: Sequence[Sample]) -> str:
    return pluralize(len(samples), "caption")


def _range(counts: Iterator[int]) -> str:
    found = sorted(set(counts))
    shown = ["very many" if count > _HUGE else f"{count:,}" for count in (found[0], found[-1])]
    return shown[0] if shown[0] == shown[1] else f"{shown[0]} to {shown[1]}"


def _size(session: Session, texts: int) -> str:
    """Say how much these texts take in the store at most, if the base is there to tell how wide they are."""
    spec, text = session.workspace.family.spec, session.project.text
    try:
        config = session.workspace.source.config(spec.denoiser)
    except ModelError:
        return ""
    width = next((config[name] for name in _WIDTHS if isinstance(config.get(name), int)), None)
    if width is None:
        return ""
    length = spec.text.tokens(text.max_length)
    width_bytes = 4 if session.workspace.precision("text", text.precision) == "fp32" else 2
    mebibytes = texts * length * width * width_bytes / 2**20
    return f", at most about {max(1, round(mebibytes)):,} MiB"
