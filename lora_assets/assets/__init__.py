"""The assets of a project, one module an asset."""

from collections.abc import Sequence

import dagster as dg

from lora_assets.assets import (
    base_model,
    broken,
    checkpoint,
    dataset,
    dataset_folder,
    latents,
    metrics,
    samples,
    text,
)
from lora_assets.projects import BrokenProject, ProjectAssets

Asset = dg.AssetsDefinition | dg.SourceAsset

_MODULES = (dataset_folder, base_model, dataset, latents, text, checkpoint, samples, metrics)


def build_assets(project: ProjectAssets | BrokenProject) -> Sequence[Asset]:
    """Return a project's eight nodes, or the one that shows why there are none."""
    if isinstance(project, BrokenProject):
        return [broken.build(project)]
    return [module.build(project) for module in _MODULES]
