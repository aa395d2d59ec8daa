"""Exactly what a change makes stale is computed again, and nothing else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.projects import TinyProject, computed, draw_picture, statuses
from trainer_core import run

BELOW = {"lora_checkpoint", "samples", "metrics"}


@pytest.fixture
def project(finished_sd15: Path, tmp_path: Path) -> TinyProject:
    # Copying gives every file a new inode and ctime: nothing may be encoded for that.
    return TinyProject(finished_sd15).copy(tmp_path / "project")


@pytest.mark.setting("datasets.path")
def test_an_unchanged_project_is_fresh_and_reused(project: TinyProject) -> None:
    assert set(statuses(project.plan()).values()) == {"fresh"}
    assert computed(project.run()) == {}


def test_one_edited_caption_is_one_embedding_and_no_latent(project: TinyProject) -> None:
    (project.pictures / "003.txt").write_text("a small picture, edited")
    plans = project.plan()
    assert plans["cached_text_embeddings"].stale == (("pictures/003.png", "caption changed"),)
    assert plans["cached_latents"].status == "fresh"
    done = computed(project.run())
    assert done["cached_text_embeddings"] == 1
    assert "cached_latents" not in done
    assert done.keys() >= BELOW


def test_a_picture_replaced_with_its_size_and_mtime_kept_is_one_latent(project: TinyProject) -> None:
    path = project.pictures / "004.png"
    before = path.stat()
    other = project.folder / "other.png"
    draw_picture(other, seed=99, size=(96, 64))
    with path.open("r+b") as file:
        file.write(other.read_bytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)
    plans = project.plan()
    assert plans["cached_latents"].stale == (("pictures/004.png", "picture changed"),)
    assert plans["cached_text_embeddings"].status == "fresh"
    done = computed(project.run())
    assert done["cached_latents"] == 1
    assert "cached_text_embeddings" not in done


def test_touching_every_file_changes_nothing(project: TinyProject) -> None:
    for path in [*project.pictures.iterdir(), *project.base.rglob("*")]:
        path.touch()
    assert set(statuses(project.plan()).values()) == {"fresh"}
    assert computed(project.run()) == {}


def test_a_renamed_file_is_not_encoded_again(project: TinyProject) -> None:
    for ending in ("png", "txt"):
        (project.pictures / f"002.{ending}").rename(project.pictures / f"renamed.{ending}")
    plans = project.plan()
    assert plans["cached_latents"].stale_count == 0
    assert plans["cached_text_embeddings"].stale_count == 0
    results = project.run()
    assert results["cached_latents"].items_computed == 0
    assert results["cached_text_embeddings"].items_computed == 0


def test_another_learning_rate_trains_again_and_encodes_nothing(project: TinyProject) -> None:
    plans = project.plan("optimizer.lr=0.002")
    assert statuses(plans) == {name: "stale" if name in BELOW else "fresh" for name in plans}
    assert plans["lora_checkpoint"].reasons == ("optimizer.lr: 0.01 -> 0.002",)
    assert computed(project.run("optimizer.lr=0.002")).keys() == BELOW


def test_a_comment_in_the_yaml_changes_nothing(project: TinyProject) -> None:
    project.config.write_text("# a comment\n" + project.config.read_text())
    assert set(statuses(project.plan()).values()) == {"fresh"}


def test_neutral_settings_and_those_that_the_family_does_not_know_change_nothing(project: TinyProject) -> None:
    plans = project.plan(
        "train.checkpoint_every=1", "train.keep_last=5", "logging.every=1", "latents.batch_size=3", "text.max_length=70"
    )
    assert set(statuses(plans).values()) == {"fresh"}


def _nudge(weights: Path) -> None:
    tensors = load_file(weights)
    name = sorted(tensors)[0]
    tensors[name] = tensors[name] + 0.01
    save_file(tensors, weights, metadata={"format": "pt"})


def _swap_vae(base: Path) -> None:
    _nudge(base / "vae" / "diffusion_pytorch_model.safetensors")


def _swap_unet(base: Path) -> None:
    _nudge(base / "unet" / "diffusion_pytorch_model.safetensors")


def _swap_text_encoder(base: Path) -> None:
    _nudge(base / "text_encoder" / "model.safetensors")


@pytest.mark.parametrize(
    ("swap", "latents", "captions"),
    [(_swap_vae, 8, 0), (_swap_unet, 0, 0), (_swap_text_encoder, 0, 8)],
    ids=["vae", "unet", "text_encoder"],
)
def test_swapped_weights_make_stale_what_they_encoded(
    project: TinyProject, swap: Callable[[Path], None], latents: int, captions: int
) -> None:
    swap(project.base)
    plans = project.plan()
    assert plans["cached_latents"].stale_count == latents
    assert plans["cached_text_embeddings"].stale_count == captions
    assert all(reason == "VAE changed" for _, reason in plans["cached_latents"].stale)
    done = computed(project.run())
    assert (done.get("cached_latents", 0), done.get("cached_text_embeddings", 0)) == (latents, captions)
    assert "samples" in done


def test_a_new_and_a_removed_picture_cost_one_entry_and_none(project: TinyProject) -> None:
    draw_picture(project.pictures / "new.png", seed=50, size=(64, 64))
    (project.pictures / "new.txt").write_text("a new picture")
    (project.pictures / "000.png").unlink()
    (project.pictures / "000.txt").unlink()
    assert project.plan()["cached_latents"].stale == (("pictures/new.png", "new"),)
    done = computed(project.run())
    assert (done["cached_latents"], done["cached_text_embeddings"]) == (1, 1)


def test_going_back_to_an_earlier_setting_reuses_its_result(project: TinyProject) -> None:
    first = project.run()["lora_checkpoint"].data_version
    project.run("adapter.rank=2")
    again = project.run()
    assert computed(again) == {}
    assert again["lora_checkpoint"].data_version == first


@pytest.mark.setting("bucket.resolution")
@pytest.mark.setting("bucket.max_side")
def test_sides_that_the_base_decides_make_the_keys_of_the_same_numbers(project: TinyProject) -> None:
    # The tiny base's config has 8 latent pixels of 8 pixels each: 64, what the project's file says, and twice that.
    plans = project.plan("bucket.resolution=null", "bucket.max_side=0")
    assert set(statuses(plans).values()) == {"fresh"}


@pytest.mark.setting("export.dtype")
def test_another_export_precision_exports_again_and_trains_nothing(project: TinyProject) -> None:
    result = project.run("export.dtype=fp32")["lora_checkpoint"]
    assert (result.action, result.items_computed, result.items_reused) == ("computed", 0, 4)
    assert {tensor.dtype.itemsize for tensor in load_file(project.lora).values()} == {4}


def test_two_projects_share_their_cache_entries(project: TinyProject) -> None:
    other = project.folder / "other.yaml"
    shutil.copy(project.config, other)
    session = run.open_session(other)
    results = {result.name: result for result in run.run_until(session, "lora_checkpoint")}
    session.close()
    assert results["cached_latents"].items_computed == 0
    assert results["cached_text_embeddings"].items_computed == 0


def test_nothing_is_ever_written_into_the_users_folders(finished_sd15: Path) -> None:
    project = TinyProject(finished_sd15)
    assert sorted(path.suffix for path in project.pictures.iterdir()) == [".png"] * 8 + [".txt"] * 8
    assert not list(project.base.rglob("*.npz"))
    assert {path.name for path in project.folder.iterdir()} == {"base", "pictures", "tiny.yaml", ".lora-assets"}


def test_plan_estimates_training_after_a_run_with_no_steps_left(project: TinyProject) -> None:
    # Another machine's index: nothing was timed here.
    (project.store / "index.sqlite").unlink()
    assert project.plan("train.seed=9")["lora_checkpoint"].seconds is None
    assert project.run("export.dtype=fp32")["lora_checkpoint"].items_computed == 0
    seconds = project.plan("train.seed=9")["lora_checkpoint"].seconds
    assert seconds is not None
    assert seconds > 0
