"""What encoding does in which order, and what tiles change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.projects import TinyProject, computed
from trainer_core.families.models.sd15 import StableDiffusion15


@pytest.fixture
def project(finished_sd15: Path, tmp_path: Path) -> TinyProject:
    return TinyProject(finished_sd15).copy(tmp_path / "project")


def test_captions_of_one_length_are_encoded_together_the_longest_first(
    project: TinyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[list[int]] = []
    real = StableDiffusion15.encode_text

    def encode(self: StableDiffusion15, encoders: Any, captions: Any, *rest: Any) -> Any:
        lengths.append([len(caption) for caption in captions])
        return real(self, encoders, captions, *rest)

    monkeypatch.setattr(StableDiffusion15, "encode_text", encode)
    for number in range(4):
        (project.pictures / f"{number:03d}.txt").write_text("word " * (number + 1))
    project.run("text.batch_size=2", until="cached_text_embeddings")
    flat = [length for batch in lengths for length in batch]
    assert len(flat) == 4 and flat == sorted(flat, reverse=True) and len(lengths) == 2


@pytest.mark.setting("latents.tiling")
def test_tiles_are_other_latents_under_other_keys(project: TinyProject, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import AutoencoderKL

    asked: list[bool] = []
    monkeypatch.setattr(AutoencoderKL, "enable_tiling", lambda self: asked.append(True))
    pictures = len(list(project.pictures.glob("*.png")))
    assert computed(project.run("latents.tiling=true", until="cached_latents"))["cached_latents"] == pictures
    assert asked == [True]
    assert project.run("latents.tiling=false", until="cached_latents")["cached_latents"].action == "reused"
    assert len(asked) == 1
