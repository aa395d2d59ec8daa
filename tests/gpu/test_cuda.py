"""The whole path on a CUDA device: run by `make test-gpu` only, and never counted as passed where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.projects import make_project
from trainer_core.families.shared import loading

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("family", ["sd15", "sdxl", "flux1"])
def test_every_family_trains_and_renders_on_the_gpu(tiny_bases: dict[str, Path], tmp_path: Path, family: str) -> None:
    assert torch.cuda.is_available(), "these tests need a CUDA device"
    project = make_project(tmp_path / "project", tiny_bases[family], family)
    results = project.run("train.precision=auto", "latents.precision=auto", "text.precision=auto")
    assert results["samples"].published.metadata["lora_changes_picture"] is True
    assert torch.cuda.max_memory_allocated() > 0


def test_a_stage_leaves_no_memory_behind_on_the_gpu(tiny_bases: dict[str, Path], tmp_path: Path) -> None:
    project = make_project(tmp_path / "project", tiny_bases["sd15"])
    before = torch.cuda.memory_allocated()
    project.run()
    assert torch.cuda.memory_allocated() <= before + 2**20


def test_weights_on_the_gpu_are_those_that_diffusers_loads(tiny_bases: dict[str, Path]) -> None:
    from dataclasses import replace

    from trainer_core.families import get_family
    from trainer_core.families.model_source import ModelSource

    family = get_family("flux1")
    source = ModelSource.open(tiny_bases["flux1"], None, family.spec)
    on_cpu = loading.load_denoiser(source, torch.bfloat16).state_dict()
    on_gpu = loading.load_denoiser(replace(source, device="cuda"), torch.bfloat16).state_dict()
    assert all(tensor.is_cuda for tensor in on_gpu.values())
    assert all(torch.equal(on_gpu[name].cpu(), on_cpu[name]) for name in on_cpu)
