"""Lumina-Image 2.0 through the whole pipeline."""

from __future__ import annotations

from pathlib import Path

from tests.projects import make_project
from tests.tiny.lumina2 import build_lumina2


def test_a_lumina2_project_trains_and_samples(tmp_path: Path) -> None:
    base = build_lumina2(tmp_path / "base")
    project = make_project(tmp_path / "project", base, family="lumina2", pictures=6, steps=2)
    results = project.run()
    assert results["cached_latents"].items_computed == 6
    assert results["cached_text_embeddings"].items_computed > 0
    assert results["samples"].action == "computed"
    assert project.lora.is_file()
    assert {result.action for result in project.run().values()} == {"reused"}
