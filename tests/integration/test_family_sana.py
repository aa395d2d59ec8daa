"""Sana through the whole pipeline."""

from __future__ import annotations

from pathlib import Path

from tests.projects import make_project
from tests.tiny.sana import build_sana


def test_a_sana_project_trains_and_samples(tmp_path: Path) -> None:
    base = build_sana(tmp_path / "base")
    project = make_project(tmp_path / "project", base, family="sana", pictures=6, steps=2)
    results = project.run("bucket.step=32")
    assert results["cached_latents"].items_computed == 6
    assert results["cached_text_embeddings"].items_computed > 0
    assert results["samples"].action == "computed"
    assert project.lora.is_file()
    assert {result.action for result in project.run("bucket.step=32").values()} == {"reused"}
