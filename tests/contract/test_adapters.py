"""Every kind of adapter on a UNet and a transformer, through the real stages: trained, resumed, exported, read back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.contract.support import open_tiny
from tests.contract.whole_run import STEPS, TRAINED, stop_training, trained_weights
from tests.projects import TinyProject, computed, make_project
from trainer_core.adapters.adapter import ADAPTERS
from trainer_core.config.groups import AdapterConfig, AdapterOptionsConfig
from trainer_core.export.hollow_models import hollow_denoiser, modules_of
from trainer_core.export.proof import prove
from trainer_core.export.write import Lora, exported_tensors, write_lora
from trainer_core.run import StageResult

FAMILIES = ("flux1", "sdxl")
FORMATS = ("diffusers", "kohya", "comfyui", "native", "lycoris")
EXTRA: Mapping[str, tuple[str, ...]] = {
    "boft": ("adapter_options.block_size=4",),
    "dylora": ("adapter_options.block_size=2",),
    "lokr": ("adapter.rank=2", "adapter_options.factor=4"),
}
# kind -> family -> (format, reader that proved it) of every file that is written
PRODUCT = {
    "flux1": {
        "diffusers": "diffusers",
        "kohya": "lora-assets",
        "comfyui": "diffusers",
        "native": "lora-assets",
        "lycoris": "lycoris",
    },
    "sdxl": {"diffusers": "diffusers", "kohya": "diffusers", "comfyui": "diffusers", "lycoris": "lycoris"},
}
LYCORIS = {
    "flux1": {"comfyui": "lycoris", "lycoris": "lycoris"},
    "sdxl": {"kohya": "lycoris", "comfyui": "lycoris", "lycoris": "lycoris"},
}
READERS: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    **dict.fromkeys(("lora", "lora-fa", "locon", "dylora"), PRODUCT),
    **dict.fromkeys(("loha", "lokr", "glora", "full", "diag-oft", "boft"), LYCORIS),
    "dora": {
        "flux1": {"diffusers": "diffusers", "lycoris": "lycoris"},
        "sdxl": {"diffusers": "diffusers", "kohya": "lycoris", "lycoris": "lycoris"},
    },
    "ia3": {"flux1": {"lycoris": "lycoris"}, "sdxl": {"kohya": "lycoris", "lycoris": "lycoris"}},
}


@pytest.fixture(scope="module")
def open_project(
    tmp_path_factory: pytest.TempPathFactory, tiny_folder: Callable[[str], Path]
) -> Callable[[str], TinyProject]:
    """Return a family's project, whose caches all kinds share."""
    made: dict[str, TinyProject] = {}

    def get(family: str) -> TinyProject:
        if family not in made:
            folder = tmp_path_factory.mktemp(family) / "project"
            made[family] = make_project(folder, tiny_folder(family), family, 4, STEPS)
            made[family].run(until="cached_text_embeddings")
        return made[family]

    return get


def settings_of(kind: str) -> tuple[str, ...]:
    return (f"adapter.type={kind}", f"export.formats={json.dumps(FORMATS)}", *EXTRA.get(kind, ()))


def proofs_of(result: StageResult) -> dict[str, dict[str, Any]]:
    return {proof["format"]: proof for proof in result.published.metadata["proof"]}


@pytest.mark.setting("adapter.type")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", sorted(ADAPTERS))
def test_a_kind_trains_resumes_and_its_files_are_proven(
    kind: str, family: str, open_project: Callable[[str], TinyProject]
) -> None:
    project, settings = open_project(family), settings_of(kind)
    for part in TRAINED:
        shutil.rmtree(project.store / part, ignore_errors=True)
    stop_training(project, settings)
    resumed = project.run(*settings, until="lora_checkpoint")
    weights = trained_weights(project, resumed)
    for part in TRAINED:
        shutil.rmtree(project.store / part)
    whole = project.run(*settings, until="lora_checkpoint")
    assert computed(whole) == {"lora_checkpoint": STEPS}
    assert trained_weights(project, whole) == weights, "resuming is exact"

    proofs = proofs_of(whole["lora_checkpoint"])
    assert {name: proof["reader"] for name, proof in proofs.items()} == READERS[kind][family]
    assert all(proof["ok"] and 0 <= proof["max_relative_error"] <= proof["bound"] for proof in proofs.values())
    assert all(proofs[name]["comfyui_coverage"] == 1.0 for name in proofs if name == "comfyui")
    losses = [line["loss"] for line in lines(whole["lora_checkpoint"])]
    assert len(set(losses)) == len(losses), "the loss moves"
    assert changed(project.lora)


def lines(result: StageResult) -> list[dict[str, float]]:
    text = result.published.file("training.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def changed(path: Path) -> bool:
    """Say whether what starts at zero has left it, in every module."""
    zero_at_first = (".lora_B.weight", ".lora_up.weight", "hada_w2_a", "lokr_w2", "lokr_w2_b", "b2.weight", "diff")
    starts = [t for key, t in load_file(path).items() if key.endswith((*zero_at_first, "oft_blocks", "_q.weight"))]
    return bool(starts) and all(bool(torch.any(tensor != 0)) for tensor in starts)


@pytest.mark.setting("adapter.type", "export.formats")
@pytest.mark.parametrize(
    ("family", "reads"), [("flux2", True), ("flux2_klein", True), ("z_image", True), ("sd3", False)]
)
@pytest.mark.parametrize("whole", [False, True])
def test_diffusers_reads_a_lokr_where_a_family_says_so(
    family: str, reads: bool, whole: bool, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    tiny = open_tiny(family, tiny_folder(family))
    spec = replace(tiny.family.spec, lora=replace(tiny.family.spec.lora, lokr_in_diffusers=True))
    config = tiny.source.config(spec.denoiser)
    denoiser, adapter = hollow_denoiser(spec, config), AdapterConfig(type="lokr", rank=2, alpha=3.0)
    options = AdapterOptionsConfig(factor=4, full_matrix=whole)
    for parameter in ADAPTERS["lokr"].attach(denoiser, adapter, options, spec.targets, 1).values():
        torch.nn.init.normal_(parameter, std=0.02)
    layers = ADAPTERS["lokr"].layers(ADAPTERS["lokr"].state(denoiser), adapter)
    modules = modules_of(spec, {spec.denoiser: hollow_denoiser(spec, config)})
    lora = Lora({f"{spec.denoiser}.{name}": layer for name, layer in layers.items()}, modules)
    path = tmp_path / "lora.safetensors"
    write_lora(path, exported_tensors(lora, "diffusers", "fp16"), {})
    assert tiny.family.spec.lora.lokr_in_diffusers is reads
    if not reads:
        with pytest.raises(ValueError, match="Invalid LoRA checkpoint"):
            tiny.pipeline.load_lora_weights(str(path.parent), weight_name=path.name)
        return
    assert prove(path, "diffusers", lora, "fp16", config).reader == "diffusers"
    tiny.pipeline.load_lora_weights(str(path.parent), weight_name=path.name)
    assert sum(hasattr(module, "lokr_w1") for module in tiny.theirs.modules()) == len(layers)
