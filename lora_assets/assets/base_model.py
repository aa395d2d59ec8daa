"""The base model's weights. Read, never written."""

import dagster as dg

from lora_assets.assets.sources import source_asset
from lora_assets.assets.stage import BASE_MODEL
from lora_assets.projects import ProjectAssets


def build(project: ProjectAssets) -> dg.SourceAsset:
    """Return the node of a project's base model."""
    model = project.project.model
    return source_asset(
        project,
        BASE_MODEL,
        "The base model that is adapted, by the SHA-256 of each component's weights. Read, never written.",
        frozenset({"diffusers", "safetensors"}),
        {"path": dg.MetadataValue.path(model.path), "family": dg.MetadataValue.text(model.family)},
    )
