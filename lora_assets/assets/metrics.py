"""What the LoRA changed, in figures, and whether it is promoted."""

import dagster as dg

from lora_assets.assets.checkpoint import LORA_CHECKPOINT
from lora_assets.assets.latents import CACHED_LATENTS
from lora_assets.assets.pictures import table
from lora_assets.assets.stage import BASE_MODEL, Check, Finished, StageAsset, Verdict
from lora_assets.assets.text import CACHED_TEXT_EMBEDDINGS
from lora_assets.projects import ProjectAssets
from lora_assets.upstream import Metadata
from trainer_core.data.names import pluralize
from trainer_core.stages.publishing.model_card import CARD
from trainer_core.stages.results import ExamFigures

_SHOWN = 50


def _describe(finished: Finished) -> Metadata:
    exam = ExamFigures.from_json(finished.result.published.metadata)
    metadata: dict[str, dg.MetadataValue] = {
        "held_out_samples": dg.MetadataValue.int(exam.held_out_samples),
        "weights_sha256": dg.MetadataValue.text(exam.weights_sha256),
        "path": dg.MetadataValue.path(finished.session.workspace.outputs / "metrics.json"),
    }
    card = finished.session.workspace.outputs / CARD
    if card.is_file():
        metadata["card"] = dg.MetadataValue.md(readable_card(card.read_text(encoding="utf-8")))
    metadata |= {f"{name}_lora": dg.MetadataValue.float(round(both.lora, 5)) for name, both in exam.figures.items()}
    metadata["figures"] = table(
        ("figure", "base", "LoRA", "change", "95 % interval"),
        [
            (name, f"{both.base:.5f}", f"{both.lora:.5f}", f"{both.lora - both.base:+.5f}", _interval(exam, name))
            for name, both in exam.figures.items()
        ],
    )
    if exam.held_out_samples:
        rows = [(name, f"{both.base:.5f}", f"{both.lora:.5f}") for name, both in exam.by_sample.items()]
        metadata["by_sample"] = table(("sample", "base", "LoRA"), rows[:_SHOWN])
    return metadata


def _interval(exam: ExamFigures, name: str) -> str:
    """Return the interval around the LoRA's score, and what it rests on; empty for what is no score of a judge."""
    if (interval := exam.interval(name)) is None:
        return ""
    return f"{interval[0]:.5f} to {interval[1]:.5f} ({pluralize(exam.pictures(name), 'picture')})"


def readable_card(text: str) -> str:
    """Return a model card without the hub's front matter and without pictures, which the page cannot reach."""
    front, end = "---\n", "\n---\n"
    body = text.partition(end)[2] if text.startswith(front) else text
    return "\n".join(line for line in body.strip().splitlines() if not line.startswith("!["))


def _promoted(finished: Finished) -> Verdict:
    settled = finished.result.settled
    reasons = "; ".join(settled["reasons"])
    held_out = finished.result.published.metadata["held_out_samples"]
    if not held_out:
        reasons += "; nothing is held out, so no loss was measured: raise datasets.held_out"
    promoted = bool(settled["promoted"])
    text = f"{'promoted' if promoted else 'not promoted'}: {reasons}"
    # Promoted without a measurement is a warning: the user chose to hold nothing out.
    severity = dg.AssetCheckSeverity.WARN if promoted else dg.AssetCheckSeverity.ERROR
    metadata = {"reasons": dg.MetadataValue.json(list(settled["reasons"]))}
    return Verdict(promoted and bool(held_out), text, metadata, severity)


METRICS = StageAsset(
    name="metrics",
    kinds=frozenset({"pytorch"}),
    sources=(BASE_MODEL,),
    parents=(CACHED_LATENTS, CACHED_TEXT_EMBEDDINGS, LORA_CHECKPOINT),
    describe=_describe,
    check=Check(
        "promoted",
        "The LoRA beats its base and the project's champion on pictures that it was not trained on, shows the concept, "
        "and keeps what the base could do.",
        _promoted,
        # Nothing is below it, and a LoRA that is not promoted is a result, not a failure.
        blocking=False,
    ),
)


def build(project: ProjectAssets) -> dg.AssetsDefinition:
    """Return the asset of one project."""
    return METRICS.build(project)
