"""Held-out loss of base and LoRA."""

import dagster as dg

from lora_assets.assets.checkpoint import LORA_CHECKPOINT
from lora_assets.assets.latents import CACHED_LATENTS
from lora_assets.assets.pictures import table
from lora_assets.assets.stage import BASE_MODEL, Check, Finished, StageAsset, Verdict
from lora_assets.assets.text import CACHED_TEXT_EMBEDDINGS
from lora_assets.projects import ProjectAssets
from lora_assets.upstream import Metadata

_SHOWN = 50


def _describe(finished: Finished) -> Metadata:
    known = finished.result.published.metadata
    metadata: dict[str, dg.MetadataValue] = {
        "held_out_samples": dg.MetadataValue.int(known["held_out_samples"]),
        "weights_sha256": dg.MetadataValue.text(known["weights_sha256"]),
        "path": dg.MetadataValue.path(finished.session.outputs / "metrics.json"),
    }
    if not known["held_out_samples"]:
        return metadata
    figures = ("held_out_loss_base", "held_out_loss_lora", "held_out_loss_change")
    metadata |= {name: dg.MetadataValue.float(round(float(known[name]), 5)) for name in figures}
    rows = [(name, f"{both['base']:.5f}", f"{both['lora']:.5f}") for name, both in known["by_sample"].items()]
    metadata["by_sample"] = table(("sample", "base", "LoRA"), rows[:_SHOWN])
    return metadata


def _held_out_loss_is_better(finished: Finished) -> Verdict:
    known = finished.result.published.metadata
    if not known["held_out_samples"]:
        text = "nothing is held out, so nothing was measured: raise datasets.held_out"
        return Verdict(False, text, severity=dg.AssetCheckSeverity.WARN)
    base, lora = float(known["held_out_loss_base"]), float(known["held_out_loss_lora"])
    text = f"held-out loss {base:.5f} of the base, {lora:.5f} with the LoRA: {lora / base - 1:+.2%}"
    return Verdict(lora < base, text, {"change": dg.MetadataValue.float(lora / base - 1)})


METRICS = StageAsset(
    name="metrics",
    kinds=frozenset({"pytorch"}),
    sources=(BASE_MODEL,),
    parents=(CACHED_LATENTS, CACHED_TEXT_EMBEDDINGS, LORA_CHECKPOINT),
    describe=_describe,
    check=Check(
        "held_out_loss_is_better",
        "On pictures it was not trained on, the LoRA beats the base.",
        _held_out_loss_is_better,
    ),
)


def build(project: ProjectAssets) -> dg.AssetsDefinition:
    """Return the asset of one project."""
    return METRICS.build(project)
