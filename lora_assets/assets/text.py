"""Captions, encoded."""

import dagster as dg

from lora_assets.assets import entries
from lora_assets.assets.dataset import VALIDATED_DATASET
from lora_assets.assets.stage import BASE_MODEL, StageAsset
from lora_assets.projects import ProjectAssets

CACHED_TEXT_EMBEDDINGS = StageAsset(
    name="cached_text_embeddings",
    kinds=frozenset({"pytorch", "safetensors"}),
    sources=(BASE_MODEL,),
    parents=(VALIDATED_DATASET,),
    describe=entries.describe,
    check=entries.VALUES_ARE_FINITE,
)


def build(project: ProjectAssets) -> dg.AssetsDefinition:
    """Return the asset of one project."""
    return CACHED_TEXT_EMBEDDINGS.build(project)
