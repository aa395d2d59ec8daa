"""Qwen-Image through all stages, and its LoRA in plain diffusers."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file

from tests.projects import computed, make_project
from tests.tiny.qwen_image import build_qwen_image


def test_a_lora_is_trained_sampled_and_loaded_by_plain_diffusers(tmp_path: Path) -> None:
    from diffusers import DiffusionPipeline

    project = make_project(tmp_path / "project", build_qwen_image(tmp_path / "base"), "qwen_image", pictures=6, steps=2)
    results = project.run("sample.negative_prompt=blurry")
    assert computed(results)["lora_checkpoint"] == 2
    assert results["samples"].published.metadata["lora_changes_picture"] is True
    pipeline = DiffusionPipeline.from_pretrained(project.base)
    pipeline.load_lora_weights(str(project.lora.parent), weight_name=project.lora.name)
    adapted = {name for name, module in pipeline.transformer.named_modules() if hasattr(module, "lora_A")}
    assert len(adapted) == len(load_file(project.lora)) // 2 == 2 * 8
