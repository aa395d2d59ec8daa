"""Views, masks, resolutions and regularisation pictures from folder to LoRA: encoded once, drawn by seed, resumed."""

from __future__ import annotations

import hashlib
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.picture_projects import samples_of, stale_latents, trained
from tests.projects import TinyProject, computed, draw_picture, statuses
from tests.unit.cli.support import call
from trainer_core import run
from trainer_core.data.pictures.crops_and_views import view_id
from trainer_core.data.pictures.decode import load_rgb, to_view
from trainer_core.errors import Interrupted
from trainer_core.families.shared import loading
from trainer_core.hardware.placement import torch_dtype
from trainer_core.stages.caching.entries import read_items, read_latents
from trainer_core.stages.caching.view_entries import mask_id, read_masks
from trainer_core.stages.rendering.prompts import chosen_prompts
from trainer_core.train.batches import BatchLoader
from trainer_core.types import Batch, ProgressEvent

DATASETS = """\
datasets:
- {path: pictures, held_out: 0.2, mask_path: masks, resolutions: [64, 96], loss_weight: 0.5}
- {path: class, regularisation: true}
augment: {flip: true, crop: random, crop_scale: 1.5, color: 0.2, variants: 2}
"""
STEPS = ("train.steps=7", "train.checkpoint_every=3")


def draw_mask(path: Path, size: tuple[int, int], left: float) -> None:
    values = np.zeros((size[1], size[0]), np.uint8)
    values[:, : int(size[0] * left)] = 255
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(values).save(path)


def enrich(project: TinyProject) -> TinyProject:
    """Give a tiny project masks, a regularisation folder and the settings of this file."""
    for number in (0, 1, 2, 4):
        with Image.open(project.pictures / f"{number:03d}.png") as picture:
            draw_mask(project.folder / "masks" / f"{number:03d}.png", picture.size, 0.25 + number / 10)
    (project.folder / "class").mkdir()
    for number in range(3):
        draw_picture(project.folder / "class" / f"{number}.png", seed=100 + number, size=(64, 64))
        (project.folder / "class" / f"{number}.txt").write_text("a picture")
    text = project.config.read_text()
    project.config.write_text(text.replace("datasets: [{path: pictures, held_out: 0.2}]\n", DATASETS))
    return project


@pytest.fixture(scope="module")
def finished(finished_sd15: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = enrich(TinyProject(finished_sd15).copy(tmp_path_factory.mktemp("seen") / "project"))
    project.run(*STEPS, until="lora_checkpoint")
    return project.folder


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> TinyProject:
    return TinyProject(finished).copy(tmp_path / "project")


def test_an_unchanged_project_is_fresh(project: TinyProject) -> None:
    plans = project.plan(*STEPS)
    assert statuses(plans, ["validated_dataset", "cached_latents", "lora_checkpoint"]) == {
        "validated_dataset": "fresh",
        "cached_latents": "fresh",
        "lora_checkpoint": "fresh",
    }
    for path in (project.folder / "masks").iterdir():
        path.touch()
    assert computed(project.run(*STEPS, until="lora_checkpoint")) == {}


@pytest.mark.setting("augment.flip", "augment.crop", "augment.color", "datasets.resolutions", "datasets.regularisation")
def test_a_stopped_run_with_everything_on_goes_on_bit_for_bit(
    finished: Path, project: TinyProject, tmp_path: Path
) -> None:
    fresh = TinyProject(finished).copy(tmp_path / "fresh")
    shutil_runs(fresh)

    def on_event(event: ProgressEvent) -> None:
        if event.stage == "lora_checkpoint" and event.done == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    session = run.open_session(fresh.config, STEPS, on_event)
    with pytest.raises(Interrupted, match="after step 4"):
        run.run_until(session, "lora_checkpoint")
    session.close()
    result = fresh.run(*STEPS, until="lora_checkpoint")["lora_checkpoint"]
    assert (result.items_computed, result.items_reused) == (3, 4)
    assert sha256(fresh.lora) == sha256(project.lora)


def shutil_runs(project: TinyProject) -> None:
    """Forget what was trained, and keep the caches."""
    import shutil

    shutil.rmtree(project.store / "runs")
    shutil.rmtree(project.store / "objects" / "lora_checkpoint")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_another_picture_encodes_its_own_views_and_no_mask(project: TinyProject) -> None:
    before = trained(project)
    name = next(one for one in sorted(before) if one.startswith("pictures/")).partition("@")[0].rpartition("/")[2]
    with Image.open(project.pictures / name) as old:
        size = old.size
    # Which pictures are held out goes by content: take one that leaves the others where they are.
    for seed in range(900, 950):
        draw_picture(project.pictures / name, seed, size)
        if trained(project) == before:
            break
    stale = stale_latents(project, *STEPS)
    own = samples_of(project, *STEPS)
    wanted = {
        view_id(sample, number)
        for sample in own
        if f"pictures/{name}@" in sample
        for number in range(max(1, len(own[sample].views)))
    }
    assert wanted <= stale.keys()
    # Random cuts follow the content, so the masks over them move with it; nothing of another picture does.
    assert all(f"pictures/{name}@" in entry for entry in stale)
    assert project.plan(*STEPS)["cached_text_embeddings"].status == "fresh"
    assert project.run(*STEPS, until="cached_latents")["cached_latents"].items_computed == len(stale)


@pytest.mark.setting("augment.flip", "augment.color", "augment.crop", "augment.crop_scale")
def test_entries_are_what_the_vae_says_of_each_view(project: TinyProject) -> None:
    session = run.open_session(project.config, STEPS)
    try:
        published = run.run_until(session, "cached_latents")[-1].published
        items: dict[str, Any] = read_items(published)
        vae = loading.load_vae(session.workspace.source, torch_dtype("fp32"))
        checked = 0
        for sample in session.workspace.manifest.samples[:6]:
            for number, view in enumerate(sample.views):
                name = view_id(sample.id, number)
                stored = read_latents(session.workspace.store, {name: str(items[name]["key"])})[name]
                pixels = torch.from_numpy(to_view(load_rgb(sample.path), view).copy()).permute(2, 0, 1)[None]
                with torch.inference_mode():
                    expected = session.workspace.family.encode_latents(vae, pixels.float() / 127.5 - 1)[0]
                torch.testing.assert_close(stored.float(), expected.float(), atol=2e-3, rtol=2e-3)
                checked += 1
        assert checked >= 8
    finally:
        session.close()


@pytest.mark.setting("datasets.mask_path")
def test_an_edited_mask_is_cut_again_and_no_picture_encoded(project: TinyProject) -> None:
    masked = next(sample for sample in samples_of(project).values() if sample.mask is not None)
    assert masked.mask is not None
    with Image.open(masked.mask.path) as old:
        size = old.size
    draw_mask(masked.mask.path, size, 0.9)
    stale = stale_latents(project, *STEPS)
    both = [name for name in samples_of(project) if name.startswith(masked.id.partition("@")[0])]
    expected = {mask_id(view_id(name, number)) for name in both for number in range(len(masked.views))}
    assert set(stale) <= expected and {reason for reason in stale.values()} == {"mask changed"}
    plans = project.plan(*STEPS)
    assert plans["validated_dataset"].stale == tuple((name, "mask changed") for name in sorted(both))
    assert plans["cached_text_embeddings"].status == "fresh" and plans["lora_checkpoint"].status == "stale"


@pytest.mark.setting("datasets.mask_path", "augment.flip")
def test_batches_show_masks_over_the_view_that_was_drawn(project: TinyProject, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[Batch] = []
    plain_batch = BatchLoader.batch

    def batch(self: BatchLoader, number: int) -> Batch:
        batches.append(plain_batch(self, number))
        return batches[-1]

    monkeypatch.setattr(BatchLoader, "batch", batch)
    project.run(*STEPS, "train.seed=8", until="lora_checkpoint")
    samples = samples_of(project)
    session = run.open_session(project.config)
    try:
        items: dict[str, Any] = read_items(run.run_until(session, "cached_latents")[-1].published)
        masked = [name for name, sample in samples.items() if sample.mask is not None]
        names = [view_id(name, number) for name in masked for number in range(len(samples[name].views))]
        stored = read_masks(session.workspace.store, {name: str(items[mask_id(name)]["key"]) for name in names})
        count = 0
        for one in batches:
            for row, name in enumerate(one.sample_ids):
                if samples[name].mask is None:
                    assert one.masks is None or bool((one.masks[row] == 1).all())
                    continue
                assert one.masks is not None and one.masks[row].shape[-2:] == one.latents[row].shape[-2:]
                places = [view_id(name, number) for number in range(len(samples[name].views))]
                assert any(torch.equal(one.masks[row], stored[place].float()) for place in places)
                count += 1
        assert count
    finally:
        session.close()


@pytest.mark.setting("datasets.regularisation", "datasets.repeats", "datasets.loss_weight")
def test_an_epoch_has_as_many_regularisation_draws_and_the_weight_trains_again(project: TinyProject) -> None:
    samples = samples_of(project)
    draws: Counter[bool] = Counter()
    for sample in samples.values():
        if sample.split == "train":
            draws[sample.regularisation] += sample.repeats
    assert draws[True] == draws[False] > 0
    assert {sample.loss_weight for sample in samples.values() if not sample.regularisation} == {0.5}
    plans = project.plan(*STEPS, "datasets.0.loss_weight=0.75")
    assert plans["cached_latents"].stale_count == plans["cached_text_embeddings"].stale_count == 0
    assert plans["lora_checkpoint"].status == "stale"


@pytest.mark.setting("datasets.regularisation")
def test_samples_are_rendered_of_the_concepts_captions(project: TinyProject) -> None:
    session = run.open_session(project.config)
    try:
        assert all("number" in text for text in chosen_prompts((), (), session.workspace).texts)
    finally:
        session.close()


def test_what_is_taken_away_is_named_as_it_was(project: TinyProject) -> None:
    for path in (project.folder / "masks").iterdir():
        path.unlink()
    plans = project.plan(*STEPS, "datasets.0.loss_weight=1")
    reasons = {reason for _, reason in plans["validated_dataset"].stale}
    assert reasons == {"mask changed, loss_weight changed", "loss_weight changed"}
    assert plans["cached_latents"].stale_count == 0


def test_check_tells_how_many_views_masks_and_regularisation_pictures_there_are(project: TinyProject) -> None:
    text = " ".join(call("check", project.config).output.split())
    assert "views each" in text and "latents are encoded for them" in text
    assert "pictures have a mask" in text and "trained by their mask" in text
    assert "regularisation pictures are seen" in text


@pytest.mark.setting("datasets.mask_path")
def test_what_dagster_observes_moves_with_a_mask(project: TinyProject) -> None:
    def observed() -> str:
        session = run.open_session(project.config)
        try:
            return session.workspace.scanned.folder_version
        finally:
            session.close()

    before = observed()
    mask = sorted((project.folder / "masks").iterdir())[0]
    mask.touch()
    assert observed() == before
    with Image.open(mask) as old:
        size = old.size
    draw_mask(mask, size, 0.95)
    assert observed() != before


def test_settings_that_cannot_work_are_told_before_a_picture_is_read(project: TinyProject) -> None:
    wrong = (
        ("datasets.0.held_out_group=(", "neither `folder` nor a regex"),
        ("datasets.0.mask_path=nowhere", "there is no folder"),
        ("datasets.0.resolutions=[64, 512]", "above bucket.max_side = 128"),
        ("datasets.0.regularisation=true", "there is no concept to train"),
    )
    for override, told in wrong:
        result = call("check", project.config, "--set", override)
        assert result.exit_code == 2 and told in " ".join(result.output.split()), override


def test_control_pictures_forbid_views(project: TinyProject) -> None:
    result = call("check", project.config, "--set", "datasets.0.control_path=masks")
    assert result.exit_code == 2 and "but not the control pictures that they start from" in " ".join(
        result.output.split()
    )
