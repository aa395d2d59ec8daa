"""Single settings of pictures and latents: flip, cuts around faces, precision, batch size, masks of every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.picture_projects import samples_of, stale_latents, trained
from tests.projects import NewProject, TinyProject, computed
from tests.unit.cli.support import call
from trainer_core import run
from trainer_core.data.pictures.crops_and_views import view_id
from trainer_core.stages.caching.entries import read_items, read_latents
from trainer_core.stages.caching.view_entries import mask_id, read_masks
from trainer_core.stages.project import picture_analysis


@pytest.fixture
def plain(finished_sd15: Path, tmp_path: Path) -> TinyProject:
    return TinyProject(finished_sd15).copy(tmp_path / "plain")


@pytest.mark.setting("augment.flip")
def test_switching_flip_on_encodes_the_mirror_images_alone(plain: TinyProject) -> None:
    stale = stale_latents(plain, "augment.flip=true")
    assert stale == {view_id(name, 1): "new" for name in trained(plain)}
    results = plain.run("augment.flip=true", until="lora_checkpoint")
    assert results["cached_latents"].items_computed == len(trained(plain))
    assert "cached_text_embeddings" not in computed(results)
    assert stale_latents(plain) == {} and plain.plan()["lora_checkpoint"].status == "fresh"


class Detector:
    """Finds a face at the left edge of every picture, and counts how often it is asked."""

    asked = 0

    def detectMultiScale(self, grey: Any, **settings: Any) -> list[tuple[int, int, int, int]]:
        type(self).asked += 1
        return [(0, 0, 10, 10)]


@pytest.mark.setting("augment.crop")
def test_a_face_is_looked_for_once_and_moves_the_cut(plain: TinyProject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_analysis, "load_detector", Detector)
    overrides = ("augment.crop=face", "bucket.table=square")
    wide = {name: sample for name, sample in samples_of(plain, *overrides).items() if sample.geometry.original[1] == 96}
    assert Detector.asked == 8
    assert {sample.split: sample.geometry.crop for sample in wide.values()}["train"] == (0, 0)
    assert samples_of(plain, *overrides).keys() >= wide.keys() and Detector.asked == 8
    centre = samples_of(plain, "bucket.table=square")
    assert all(centre[name].geometry.crop == (0, 16) for name in wide)
    moved = {name for name, one in samples_of(plain, *overrides).items() if one.geometry != centre[name].geometry}
    plain.run("bucket.table=square", until="cached_latents")
    assert moved and stale_latents(plain, *overrides).keys() == moved <= trained(plain)


@pytest.mark.setting("augment.crop")
def test_without_a_detector_nothing_is_remembered_and_all_is_cut_at_the_centre(
    plain: TinyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture_analysis, "load_detector", lambda: None)
    overrides = ("augment.crop=face", "bucket.table=square")
    assert samples_of(plain, *overrides) == samples_of(plain, "bucket.table=square")
    text = " ".join(call("check", plain.config, "--set", overrides[0]).output.split())
    assert "lora-assets[faces]" in text and "no face that was found" in text
    Detector.asked = 0
    monkeypatch.setattr(picture_analysis, "load_detector", Detector)
    samples_of(plain, *overrides)
    assert Detector.asked == 8


@pytest.mark.setting("datasets.mask_path", "datasets.alpha_mask")
@pytest.mark.parametrize("model", ["flux2", "sana", "qwen_image"])
def test_masks_have_the_size_of_every_familys_latents(model: str, new_project: NewProject) -> None:
    project = new_project(model)
    pixels = np.full((64, 64, 4), 255, np.uint8)
    pixels[:, :32, 3] = 0
    Image.fromarray(pixels).save(project.pictures / "alpha.png")
    (project.pictures / "alpha.txt").write_text("half of it")
    session = run.open_session(
        project.config, ["datasets.0.alpha_mask=true", "bucket.step=32", "datasets.0.held_out=0"]
    )
    try:
        published = run.run_until(session, "cached_latents")[-1].published
        items: dict[str, Any] = read_items(published)
        name = "pictures/alpha.png"
        latent = read_latents(session.workspace.store, {name: str(items[name]["key"])})[name]
        mask = read_masks(session.workspace.store, {name: str(items[mask_id(name)]["key"])})[name]
        assert mask.shape == (1, *latent.shape[-2:])
        half = mask.shape[-1] // 2
        assert mask[..., :half].max() == 0 and mask[..., half:].min() == 1
    finally:
        session.close()


@pytest.mark.setting("latents.precision")
def test_the_precision_of_latents_decides_how_they_are_encoded_and_stored(plain: TinyProject) -> None:
    def stored(*overrides: str) -> tuple[torch.dtype, torch.Tensor]:
        session = run.open_session(plain.config, overrides)
        try:
            items: dict[str, Any] = read_items(run.run_until(session, "cached_latents")[-1].published)
            name = "pictures/000.png"
            latent = read_latents(session.workspace.store, {name: str(items[name]["key"])})[name]
            return latent.dtype, latent.float().clone()
        finally:
            session.close()

    assert len(stale_latents(plain, "latents.precision=bf16")) == 8
    (fine, exact), (coarse, rounded) = stored(), stored("latents.precision=bf16")
    assert (fine, coarse) == (torch.float32, torch.float16)
    assert 0 < float((exact - rounded).abs().max()) < 0.1 * float(exact.abs().max())


@pytest.mark.setting("latents.batch_size")
def test_the_batch_size_of_latents_decides_how_many_the_vae_sees_at_once(
    plain: TinyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer_core.stages import cached_latents

    sizes: list[int] = []
    plain_batches = cached_latents._batches  # pyright: ignore[reportPrivateUsage]

    def batches(pictures: Any, size: int) -> Any:
        for batch in plain_batches(pictures, size):
            sizes.append(len(batch))
            yield batch

    monkeypatch.setattr(cached_latents, "_batches", batches)
    assert plain.plan("latents.batch_size=2")["cached_latents"].status == "fresh"
    plain.run("latents.precision=bf16", "latents.batch_size=2", until="cached_latents")
    # Three, three and two pictures of a size.
    assert sorted(sizes) == [1, 1, 2, 2, 2]
