"""Settings of how the work is done: what they change on the way, and that the LoRA stays the same."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.projects import TinyProject
from trainer_core import run
from trainer_core.families.models.sd15 import StableDiffusion15
from trainer_core.stages.caching.entries import read_items, read_text
from trainer_core.train.batches import CachedSamples


@pytest.fixture
def project(finished_sd15: Path, tmp_path: Path) -> TinyProject:
    return TinyProject(finished_sd15).copy(tmp_path / "project")


def lora(project: TinyProject, *overrides: str) -> str:
    return project.run(*overrides, until="lora_checkpoint")["lora_checkpoint"].data_version


@pytest.mark.setting("text.batch_size")
def test_captions_are_encoded_as_many_at_once_as_asked_for(
    project: TinyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    encode = StableDiffusion15.encode_text

    def counted(self: Any, encoders: Any, captions: Sequence[str], *more: Any) -> Any:
        sizes.append(len(captions))
        return encode(self, encoders, captions, *more)

    monkeypatch.setattr(StableDiffusion15, "encode_text", counted)
    assert project.plan("text.batch_size=3")["cached_text_embeddings"].status == "fresh"
    project.run("text.batch_size=3", "text.precision=bf16", until="cached_text_embeddings")
    assert sizes == [3] * (sum(sizes) // 3) + [sum(sizes) % 3] * bool(sum(sizes) % 3)
    assert max(sizes) == 3


@pytest.mark.setting("text.precision")
def test_the_precision_of_text_decides_how_it_is_encoded_and_stored(project: TinyProject) -> None:
    def stored(*overrides: str) -> torch.Tensor:
        session = run.open_session(project.config, overrides)
        try:
            items: dict[str, Any] = read_items(run.run_until(session, "cached_text_embeddings")[-1].published)
            name = next(iter(items))
            return read_text(session.workspace.store, {name: str(items[name]["key"])})[name].embeds.clone()
        finally:
            session.close()

    exact, rounded = stored("text.precision=fp32"), stored("text.precision=bf16")
    assert (exact.dtype, rounded.dtype) == (torch.float32, torch.bfloat16)
    assert 0 < float((exact - rounded.float()).abs().max()) < 0.1 * float(exact.abs().max())


@pytest.mark.setting("hardware.resident_cache_mib")
def test_a_cache_above_its_limit_is_read_from_disk_and_gives_the_same_lora(
    project: TinyProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[int] = []
    resident = CachedSamples.resident

    def counted(self: CachedSamples, *where: Any) -> CachedSamples:
        moved.append(len(self.latents))
        return resident(self, *where)

    monkeypatch.setattr(CachedSamples, "resident", counted)
    other = project.copy(tmp_path / "other")
    in_memory = lora(project, "train.seed=5")
    assert len(moved) == 1
    assert lora(other, "train.seed=5", "hardware.resident_cache_mib=0") == in_memory
    assert len(moved) == 1


@pytest.mark.setting("hardware.decode_threads")
def test_pictures_are_decoded_by_as_many_threads_as_asked_for(
    project: TinyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer_core.stages import cached_latents

    pools: list[int] = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, max_workers: int, **more: Any) -> None:
            pools.append(max_workers)
            super().__init__(max_workers, **more)

    monkeypatch.setattr(cached_latents, "ThreadPoolExecutor", Pool)
    project.run("hardware.decode_threads=3", "latents.precision=bf16", until="cached_latents")
    assert pools == [3]
