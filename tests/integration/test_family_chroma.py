"""Chroma through the whole pipeline."""

from __future__ import annotations

from pathlib import Path

from tests.projects import make_project
from tests.tiny.chroma import build_chroma


def test_a_chroma_project_trains_and_samples(tmp_path: Path) -> None:
    base = build_chroma(tmp_path / "base")
    project = make_project(tmp_path / "project", base, family="chroma", pictures=6, steps=2)
    results = project.run()
    assert results["cached_latents"].items_computed == 6
    assert results["cached_text_embeddings"].items_computed > 0
    assert results["samples"].action == "computed"
    assert project.lora.is_file()
    assert {result.action for result in project.run().values()} == {"reused"}
