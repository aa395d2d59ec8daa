"""From a folder of pictures to samples with a family's tiny model."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open

from tests.projects import computed, make_project

STEPS = ["cached_latents", "cached_text_embeddings", "lora_checkpoint", "samples"]


def check_whole_run(folder: Path, base: Path, family: str) -> None:
    """Train two steps on six pictures and render; nothing is done twice."""
    project = make_project(folder, base, family, pictures=6, steps=2)
    results = project.run()
    assert list(computed(results)) == ["validated_dataset", *STEPS, "metrics"]
    assert computed(results)["cached_latents"] == 6
    with safe_open(project.lora, framework="pt") as file:  # type: ignore[no-untyped-call]
        names = list(file.keys())
        moved = [name for name in names if "lora_B" in name and file.get_tensor(name).abs().max() > 0]
    assert names and moved
    assert results["samples"].published.metadata["lora_changes_picture"] is True
    assert computed(project.run()) == {}
