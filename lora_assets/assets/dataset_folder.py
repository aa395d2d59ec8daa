"""The user's pictures and captions. Read, never written."""

import dagster as dg

from lora_assets.assets.sources import source_asset
from lora_assets.assets.stage import DATASET_FOLDER
from lora_assets.projects import ProjectAssets


def build(project: ProjectAssets) -> dg.SourceAsset:
    """Return the node of a project's dataset folders."""
    folders = [
        str(path)
        for dataset in project.project.datasets
        for path in (dataset.path, *dataset.control_path, dataset.mask_path)
        if path is not None
    ]
    return source_asset(
        project,
        DATASET_FOLDER,
        "The user's pictures, captions, control pictures and masks, by content. Read, never written.",
        frozenset({"file"}),
        {"folders": dg.MetadataValue.json(folders)},
    )
