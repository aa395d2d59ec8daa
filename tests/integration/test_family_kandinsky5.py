"""Kandinsky 5 through all stages, and its LoRA in plain diffusers."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file

from tests.projects import computed, make_project
from tests.tiny.kandinsky5 import build_kandinsky5
from tests.tiny.qwen_vl import load_with_processor


def test_a_lora_is_trained_sampled_and_loaded_by_plain_diffusers(tmp_path: Path) -> None:
    base = build_kandinsky5(tmp_path / "base")
    project = make_project(tmp_path / "project", base, "kandinsky5", pictures=6, steps=2)
    results = project.run("sample.strengths=[1.0]")
    assert computed(results)["lora_checkpoint"] == 2
    assert results["samples"].published.metadata["lora_changes_picture"] is True
    pipeline = load_with_processor(project.base, "tokenizer")
    pipeline.load_lora_weights(str(project.lora.parent), weight_name=project.lora.name)
    adapted = {name for name, module in pipeline.transformer.named_modules() if hasattr(module, "lora_A")}
    assert len(adapted) == len(load_file(project.lora)) // 2 == 4 + 2 * 8
