"""One flipped byte in any kind of file of the store or the outputs: found, named, healed or refused; never used."""

from __future__ import annotations

import hashlib
import logging
import shutil
from pathlib import Path

import pytest

from tests.projects import TinyProject

RETRAIN = ("optimizer.lr=0.003",)
"""Trains again from the caches, so that every cached entry is read."""
KINDS: dict[str, str] = {
    "version": "store/VERSION",
    "index": "store/index.sqlite",
    "latents shard": "store/entries/latents/*.safetensors",
    "text shard": "store/entries/text/*.safetensors",
    "ref": "store/refs/tiny/lora_checkpoint.json",
    "dataset manifest": "store/objects/validated_dataset/*/MANIFEST.json",
    "dataset table": "store/objects/validated_dataset/*/manifest.parquet",
    "contact sheet": "store/objects/validated_dataset/*/contact_sheet.png",
    "latents manifest": "store/objects/cached_latents/*/MANIFEST.json",
    "latents list": "store/objects/cached_latents/*/items.json",
    "text list": "store/objects/cached_text_embeddings/*/items.json",
    "lora manifest": "store/objects/lora_checkpoint/*/MANIFEST.json",
    "lora": "store/objects/lora_checkpoint/*/lora.safetensors",
    "curve": "store/objects/lora_checkpoint/*/loss_curve.png",
    "grid": "store/objects/samples/*/grid.png",
    "figures": "store/objects/metrics/*/metrics.json",
    "run metrics": "store/runs/*/metrics.jsonl",
    "published lora": "outputs/tiny/tiny.safetensors",
    "checksums": "outputs/tiny/checksums.sha256",
}
CHECKPOINT_FILES = ("adapter.safetensors", "optimizer.safetensors", "state.json", "MANIFEST.json")


@pytest.fixture(scope="module")
def truth(finished_sd15: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, str], str]]:
    """What an undamaged copy gives: as it is, and trained again."""
    project = TinyProject(finished_sd15).copy(tmp_path_factory.mktemp("truth") / "project")
    return {"as it is": _result(project), "again": _result(project, *RETRAIN)}


@pytest.fixture
def project(finished_sd15: Path, tmp_path: Path) -> TinyProject:
    return TinyProject(finished_sd15).copy(tmp_path / "project")


def _result(project: TinyProject, *overrides: str) -> tuple[dict[str, str], str]:
    versions = {name: result.data_version for name, result in project.run(*overrides).items()}
    return versions, hashlib.sha256(project.lora.read_bytes()).hexdigest()


def _flip(path: Path, share: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * share)] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.1, 0.9])
def test_one_flipped_byte_changes_no_result(
    project: TinyProject, truth: dict[str, tuple[dict[str, str], str]], kind: str, share: float
) -> None:
    path = sorted(project.home.glob(KINDS[kind]))[0]
    _flip(path, share)
    assert _result(project) == truth["as it is"]
    if "shard" in kind or kind == "index":
        assert _result(project, *RETRAIN) == truth["again"]


@pytest.mark.parametrize("kind", ["latents shard", "lora", "grid", "latents manifest"])
def test_damage_is_named(project: TinyProject, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    path = sorted(project.home.glob(KINDS[kind]))[0]
    _flip(path, 0.9)
    with caplog.at_level(logging.WARNING):
        project.run()
        project.run(*RETRAIN)
    assert path.name in caplog.text or path.parent.name in caplog.text


def test_a_deleted_index_costs_no_encoding(project: TinyProject) -> None:
    for path in project.store.glob("index.sqlite*"):
        path.unlink()
    results = project.run()
    assert {name for name, result in results.items() if result.action == "computed"} == set()
    assert project.run(*RETRAIN)["cached_latents"].items_computed == 0


def test_a_deleted_shard_is_encoded_again(project: TinyProject) -> None:
    for path in project.store.glob("entries/latents/*"):
        path.unlink()
    plans = project.plan()
    assert plans["cached_latents"].stale_count == 8
    assert {reason for _, reason in plans["cached_latents"].stale} == {"its cached entry is gone or was damaged"}
    assert project.run()["cached_latents"].items_computed == 8


@pytest.mark.parametrize("name", CHECKPOINT_FILES)
def test_a_flipped_byte_in_a_checkpoint_is_refused(
    project: TinyProject, truth: dict[str, tuple[dict[str, str], str]], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    newest = sorted(project.store.glob("runs/*/checkpoints/step-*"))[-1]
    _flip(newest / name, 0.5)
    shutil.rmtree(project.store / "objects" / "lora_checkpoint")
    with caplog.at_level(logging.WARNING):
        assert _result(project) == truth["as it is"]
    assert f"checkpoint {newest} is damaged" in caplog.text


@pytest.mark.parametrize("file", ["held_out.jsonl", "best/step-*.safetensors"])
def test_a_flipped_byte_in_what_the_best_step_was_chosen_by_changes_no_result(
    project: TinyProject, truth: dict[str, tuple[dict[str, str], str]], file: str, caplog: pytest.LogCaptureFixture
) -> None:
    for path in project.store.glob(f"runs/*/{file}"):
        _flip(path, 0.5)
    shutil.rmtree(project.store / "objects" / "lora_checkpoint")
    with caplog.at_level(logging.WARNING):
        assert _result(project) == truth["as it is"]
    assert "so the run does not go on from it" in caplog.text
