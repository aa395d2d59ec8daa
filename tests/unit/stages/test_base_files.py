"""Where a base model is found: on disk, in the hub's cache, in a pickled file."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from trainer_core.config.groups import ModelConfig
from trainer_core.config.load import load_project
from trainer_core.errors import ModelError
from trainer_core.families import hub
from trainer_core.stages.project.base_model import fetch_base, find_base
from trainer_core.store import Store

COMMIT = "a" * 40


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


@pytest.fixture
def hub_cache(tiny_bases: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub with one model, in the hub's own layout: large files are links to blobs named by SHA-256."""
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    model = cache / "models--someone--tiny"
    snapshot, blobs = model / "snapshots" / COMMIT, model / "blobs"
    shutil.copytree(tiny_bases["sd15"], snapshot)
    blobs.mkdir()
    for file in snapshot.rglob("*.safetensors"):
        blob = blobs / hashlib.sha256(file.read_bytes()).hexdigest()
        file.replace(blob)
        file.symlink_to(blob)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(cache))
    return snapshot


@pytest.mark.setting("model.path", "model.revision")
def test_a_model_of_the_hub_is_found_in_its_cache_without_a_network(hub_cache: Path, store: Store) -> None:
    source = find_base(ModelConfig(family="sd15", path=Path("someone/tiny")), store)
    assert source.config_root == hub_cache
    assert find_base(ModelConfig(family="sd15", path=Path("someone/tiny"), revision=COMMIT), store) == source


def test_a_model_that_is_not_cached_is_an_error_that_tells_how_to_get_it(hub_cache: Path, store: Store) -> None:
    with pytest.raises(ModelError, match=r"no folder other/model.*lora-assets train.*hf download other/model"):
        find_base(ModelConfig(family="sd15", path=Path("other/model")), store)


def test_a_whole_model_is_not_asked_for_again_and_a_broken_download_goes_on(
    hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def download(repo: str, revision: str | None) -> Path:
        asked.append(repo)
        return hub_cache

    monkeypatch.setattr(hub, "download", download)
    model = ModelConfig(family="sd15", path=Path("someone/tiny"))
    fetch_base(model)
    assert asked == []
    (hub_cache / "unet" / "config.json").unlink()
    fetch_base(model)
    assert asked == ["someone/tiny"]


def test_a_download_names_what_it_wants_and_what_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: dict[str, Any] = {}

    def refuse(repo: str, **arguments: Any) -> str:
        wanted.update(arguments)
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(ModelError, match="someone/big could not be downloaded.*no network.*login"):
        hub.download("someone/big", None)
    assert "model_index.json" in wanted["allow_patterns"]
    assert not any(pattern.endswith((".bin", ".ckpt")) for pattern in wanted["allow_patterns"])


def test_large_files_of_the_hub_are_not_hashed_again(hub_cache: Path) -> None:
    weights = hub_cache / "unet" / "diffusion_pytorch_model.safetensors"
    assert hub.blob_sha256(weights) == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert hub.blob_sha256(hub_cache / "model_index.json") is None


def test_a_path_that_is_there_is_never_taken_for_an_id(tmp_path: Path) -> None:
    config = tmp_path / "project.yaml"
    config.write_text("model: {family: sd15, path: bases/mine}\ndatasets: [{path: pictures}]\n")
    assert load_project(config).model.path == Path("bases/mine")
    (tmp_path / "bases" / "mine").mkdir(parents=True)
    assert load_project(config).model.path == tmp_path / "bases" / "mine"


@pytest.mark.parametrize("text", ["./bases/mine", "../mine/base", "/a/b", "model.safetensors", "a/model.safetensors"])
def test_other_paths_start_at_the_config(tmp_path: Path, text: str) -> None:
    config = tmp_path / "project.yaml"
    config.write_text(f"model: {{family: sd15, path: {text}}}\ndatasets: [{{path: pictures}}]\n")
    assert load_project(config).model.path.is_absolute()


def pickled(single: Path, target: Path) -> Path:
    """Save the tensors of a single file as a .ckpt is saved."""
    torch.save({"state_dict": load_file(single), "global_step": 7}, target)
    return target


@pytest.mark.setting("model.allow_pickle")
def test_a_pickled_checkpoint_is_read_when_the_user_asks_and_is_the_same_model(
    tiny_bases: Mapping[str, Path], tmp_path: Path, store: Store
) -> None:
    from tests.tiny import single_file_sd15

    configs = tiny_bases["sd15"]
    single = single_file_sd15(configs, tmp_path / "model.safetensors")
    checkpoint = pickled(single, tmp_path / "model.ckpt")
    asked = ModelConfig(family="sd15", path=checkpoint, config_path=configs)
    with pytest.raises(ModelError, match="pickled weights can run code"):
        find_base(asked, store)
    found = find_base(asked.model_copy(update={"allow_pickle": True}), store)
    assert found.file is not None
    ours, theirs = load_file(found.file), load_file(single)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    again = find_base(asked.model_copy(update={"allow_pickle": True}), store)
    assert again.file == found.file


class Exploit:
    """What a malicious checkpoint holds: unpickling it would call `print`."""

    def __reduce__(self) -> Any:
        return print, ("code from a checkpoint was run",)


def test_code_in_a_pickled_checkpoint_is_never_run(
    tiny_bases: Mapping[str, Path], tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tmp_path / "evil.ckpt"
    torch.save({"state_dict": Exploit()}, checkpoint)
    model = ModelConfig(family="sd15", path=checkpoint, config_path=tiny_bases["sd15"], allow_pickle=True)
    with pytest.raises(ModelError, match="holds more than weights"):
        find_base(model, store)
    assert "was run" not in capsys.readouterr().out
