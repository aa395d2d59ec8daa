"""Pictures of base and LoRA, side by side."""

import dagster as dg

from lora_assets.assets.checkpoint import LORA_CHECKPOINT
from lora_assets.assets.dataset import VALIDATED_DATASET
from lora_assets.assets.pictures import thumbnail
from lora_assets.assets.stage import BASE_MODEL, Check, Finished, StageAsset, Verdict
from lora_assets.projects import ProjectAssets
from lora_assets.upstream import Metadata
from trainer_core.stages.rendering.samples_settings import GRID


def _describe(finished: Finished) -> Metadata:
    published = finished.result.published
    return {
        "grid": thumbnail(published.path / GRID, "base beside LoRA"),
        "path": dg.MetadataValue.path(finished.session.workspace.outputs / "samples.png"),
        "prompts": dg.MetadataValue.json(published.metadata["prompts"]),
    }


def _lora_changes_pictures(finished: Finished) -> Verdict:
    changes = bool(finished.result.published.metadata["lora_changes_picture"])
    text = "the LoRA changes the pictures" if changes else "with and without the LoRA the pictures are the same"
    return Verdict(changes, text, severity=dg.AssetCheckSeverity.WARN)


SAMPLES = StageAsset(
    name="samples",
    kinds=frozenset({"diffusers"}),
    sources=(BASE_MODEL,),
    # A project without prompts of its own is sampled with captions.
    parents=(VALIDATED_DATASET, LORA_CHECKPOINT),
    describe=_describe,
    check=Check(
        "lora_changes_pictures", "The file has an effect when diffusers loads it.", _lora_changes_pictures, False
    ),
)


def build(project: ProjectAssets) -> dg.AssetsDefinition:
    """Return the asset of one project."""
    return SAMPLES.build(project)
