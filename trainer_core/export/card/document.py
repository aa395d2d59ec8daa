"""The model card as Markdown, with the Hub's front matter.

Nothing here looks at a clock, so equal runs give equal cards. Source of the front matter's fields:
https://huggingface.co/docs/hub/model-cards and the cards that diffusers' own training scripts write.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import PurePath

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString as Quoted

from trainer_core.data.names import pluralize
from trainer_core.export.card.facts import (
    GRID,
    MOST_PICTURES,
    CardFacts,
    Figure,
    Lineage,
    Rendered,
    Trained,
    TrainingData,
    picture_name,
)
from trainer_core.export.card.markdown import inline, item, table
from trainer_core.export.card.usage import hub_id, usage
from trainer_core.types import Verdict

_TAGS = ("lora", "diffusers", "template:sd-lora")


def model_card(facts: CardFacts) -> str:
    """Return a card as Markdown with the Hub's front matter; equal facts give equal text."""
    sections = (
        _front_matter(facts),
        f"# {inline(facts.name)}\n\n{_what(facts.trained)}",
        _samples(facts.rendered),
        f"## Use\n\n{usage(facts)}",
        _figures(facts.figures),
        _verdict(facts.verdict),
        _data(facts.data),
        _settings(facts.settings),
        _license(facts),
        _lineage(facts.lineage),
    )
    text = "\n\n".join(section for section in sections if section) + "\n"
    # Half a surrogate pair, which YAML lets a prompt hold, could not be written to a file.
    return text.encode("utf-8", "replace").decode()


def _front_matter(facts: CardFacts) -> str:
    trained = facts.trained
    front: dict[str, object] = {"license": Quoted(facts.license)}
    if facts.license == "other":
        # The Hub asks for the name of a license that is not in its list.
        front["license_name"] = "license-of-the-base-model"
    if base := hub_id(trained):
        front |= {"license_link": Quoted(f"https://huggingface.co/{base}")} if facts.license == "other" else {}
        front |= {"base_model": Quoted(base), "base_model_relation": "adapter"}
    task = "image-to-image" if facts.rendered.controls else "text-to-image"
    front |= {"library_name": "diffusers", "pipeline_tag": task, "tags": [task, *_TAGS]}
    if trained.trigger_words:
        front["instance_prompt"] = Quoted(", ".join(trained.trigger_words))
    if facts.rendered.prompts:
        # Quoted, because `yes` and `1e3` are words to YAML 1.2 and something else to the Hub's YAML 1.1.
        front["widget"] = [
            {"text": Quoted(text), "output": {"url": picture_name(row)}}
            for row, text in enumerate(facts.rendered.prompts[:MOST_PICTURES])
        ]
    yaml, stream = YAML(), io.StringIO()
    # A prompt stays in its line, however long it is.
    yaml.width = 1 << 30
    yaml.dump(front, stream)
    return f"---\n{stream.getvalue()}---"


def _what(trained: Trained) -> str:
    base = f" ({inline(trained.base_model)})" if trained.base_model else ""
    chosen = f"step {trained.step} of {trained.steps}" if trained.step != trained.steps else f"{trained.steps} steps"
    lines = [
        f"{_kind(trained)} for {inline(trained.family)}{base}: rank {trained.rank}, alpha {trained.alpha:g}, "
        f"on {inline(trained.targets)}, {chosen}."
    ]
    if trained.replaced:
        named = ", ".join(f"{inline(name)} ({component})" for component, name in sorted(trained.replaced.items()))
        lines.append(f"Trained with other components than the base's own: {named}. Load them when you render.")
    if trained.storage:
        lines.append(f"Trained on a quantised base: {inline(trained.storage)}. The LoRA itself is in full precision.")
    return "\n\n".join(lines)


def _kind(trained: Trained) -> str:
    return "A LoRA" if trained.kind == "lora" else f"An adapter ({inline(trained.kind)})"


def _samples(rendered: Rendered) -> str:
    if not rendered.prompts:
        return ""
    prompts = "\n".join(f"{number}. {item(text) or '(no prompt)'}" for number, text in enumerate(rendered.prompts, 1))
    what = "The base beside the LoRA at several strengths; one row a prompt, one seed a row."
    return f"## Samples\n\n![The base beside the LoRA]({GRID})\n\n{what}\n\n{prompts}"


def _figures(figures: Sequence[Figure]) -> str:
    if not figures:
        return ""
    rows = [(one.name, _value(one, one.base), _value(one, one.lora), _change(one), _interval(one)) for one in figures]
    head = ("", "base", "LoRA", "change", "95 % interval of the LoRA")
    note = "Measured from the published file at strength 1. An interval allows for other seeds of the same prompts."
    return f"## Figures\n\n{table(head, rows)}\n\n{note}"


def _value(figure: Figure, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1%}" if figure.share else f"{value:.5g}"


def _change(figure: Figure) -> str:
    """Return the change from base to LoRA: in points for a share, else as a share of the base."""
    if figure.base is None or figure.lora is None:
        return ""
    change, unit = figure.lora - figure.base, " points"
    if not figure.share:
        if figure.base == 0:
            return ""
        change, unit = change / figure.base, "%"
    noise = figure.noise
    if noise is not None and not figure.share:
        noise /= abs(figure.base)
    return f"{100 * change:+.1f}{unit}" + ("" if noise is None else f" ± {100 * noise:.1f}{unit}")


def _interval(figure: Figure) -> str:
    if figure.interval is None:
        return ""
    low, high = (_value(figure, end) for end in figure.interval)
    return f"{low} to {high}" + (f" ({pluralize(figure.pictures, 'picture')})" if figure.pictures else "")


def _verdict(verdict: Verdict | None) -> str:
    if verdict is None:
        return ""
    decision = "Promoted: it keeps every limit of its project, whose champion it is."
    if not verdict.promoted:
        decision = "Not promoted to its project's champion."
    reasons = "\n".join(f"- {item(reason)}" for reason in verdict.reasons)
    return f"## Gate\n\n{decision}" + (f"\n\n{reasons}" if reasons else "")


def _data(data: TrainingData) -> str:
    counts = (
        f"Trained on {pluralize(data.trained, 'picture')}; {data.held_out} held out to measure the loss, "
        f"{sum(data.excluded.values())} excluded."
    )
    if data.regularisation:
        counts += f" {data.regularisation} of those trained on are regularisation pictures, without the concept."
    if data.paired:
        counts += f" {data.paired} of them are edits of a control picture."
    parts = ["## Training data", counts]
    if data.excluded:
        parts.append(table(("excluded because", "pictures"), sorted(data.excluded.items())))
    if data.buckets:
        parts.append(table(("bucket", "pictures", "held out"), data.buckets))
    return "\n\n".join(parts)


def _settings(settings: Mapping[str, object]) -> str:
    if not settings:
        return ""
    rows = [(name, _setting(value)) for name, value in settings.items()]
    note = "Every setting that is not listed has its default in lora-assets."
    return f"## Training settings\n\n{table(('setting', 'value'), rows)}\n\n{note}"


def _setting(value: object) -> str:
    """Return a value as a project's file would have it; of a path of this machine its name alone."""
    if value is None or value == "" or value == () or value == [] or value == {}:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(_setting(one) for one in value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_setting(one)}" for name, one in value.items())  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return PurePath(value).name if isinstance(value, str) and PurePath(value).is_absolute() else str(value)


def _license(facts: CardFacts) -> str:
    if facts.license != "other":
        return ""
    name = facts.trained.base_model
    base = f"the base model ({inline(name)})" if name else "the base model"
    return (
        f"## License\n\nThe license of {base} holds for what was trained on it. Set `license` in the front matter "
        "before you publish this LoRA."
    )


def _lineage(lineage: Lineage) -> str:
    rows = [
        ("base model, fingerprint", lineage.base_fingerprint),
        ("dataset, data version", lineage.dataset_version),
        ("weights, SHA-256", lineage.weights_sha256),
        ("file, SHA-256", lineage.file_sha256),
        *sorted(lineage.versions.items()),
    ]
    return f"## Lineage\n\n{table(('', ''), rows)}"
