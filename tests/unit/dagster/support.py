"""What the tests of the Dagster layer share: staleness as Dagster sees it, and a project that is only settings."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
from dagster._core.loader import LoadingContextForTest

from lora_assets.definitions import build_definitions
from lora_assets.projects import discover_projects
from lora_assets.upstream import CachingStaleStatusResolver

STAGES = ("validated_dataset", "cached_latents", "cached_text_embeddings", "lora_checkpoint", "samples", "metrics")
NODES = ("dataset_folder", "base_model", *STAGES)

SETTINGS = """\
model: {family: sd15, path: ../base}
datasets: [{path: ../data, held_out: 0.2}]
bucket: {resolution: 64, step: 8, min_side: 32, max_side: 128}
optimizer: {lr: 1e-2}
train: {steps: 4, precision: fp32}
latents: {precision: fp32}
text: {precision: fp32}
sample: {steps: 2, prompts: [a picture]}
logging: {every: 1}
"""


def write_config(root: Path, name: str = "default", settings: str = SETTINGS) -> Path:
    """Write root/configs/NAME.yaml and return the folder."""
    folder = root / "configs"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(settings)
    return folder


def definitions(root: Path) -> dg.Definitions:
    """Return the definitions of the configs below `root`, as a fresh load of the code gives them."""
    return build_definitions(discover_projects(root / "configs"))


def statuses(instance: dg.DagsterInstance, defs: dg.Definitions) -> dict[str, str]:
    """Return asset -> FRESH, STALE or MISSING."""
    graph = defs.resolve_asset_graph()
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    return {key.to_user_string(): resolver.get_status(key).value for key in graph.get_all_asset_keys()}
