"""Another VAE or other text encoders than the base's own: which files are read, what is loaded, which keys change."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.contract.test_model_source import changed, copied, prints, sha256_files, weights_of
from tests.tiny import SINGLE_FILES
from trainer_core.errors import ModelError
from trainer_core.families import get_family
from trainer_core.families.model_source import ModelSource, single_file_digests
from trainer_core.families.shared import loading

FAMILIES = ("flux1", "sd15", "sdxl")
Folder = Callable[[str], Path]


@dataclass(frozen=True)
class Files:
    """A model whose weights differ from the base's, as a folder and as the separate files that people have."""

    folder: Path
    vae: Path
    encoders: Mapping[str, Path]
    """Text encoder -> its file."""


def other_model(family: str, tiny_folder: Folder, root: Path) -> Files:
    """Change every weight of the VAE and of the text encoders, and write them in both layouts."""
    from safetensors.torch import load_file, save_file

    folder = copied(tiny_folder(family), root / "other")
    names = [name for name in get_family(family).spec.text_components if name.startswith("text_encoder")]
    for name in ("vae", *names):
        weights = weights_of(folder, name)
        save_file({key: tensor * 1.5 for key, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    whole = load_file(SINGLE_FILES[family](folder, root / "whole.safetensors"))
    start = "vae." if any(key.startswith("vae.") for key in whole) else "first_stage_model."
    vae = {key.removeprefix(start): tensor for key, tensor in whole.items() if key.startswith(start)}
    save_file(vae, root / "ae.safetensors")
    encoders: dict[str, Path] = {}
    for name in names:
        tensors = load_file(weights_of(folder, name))
        if "CLIP" in get_family(family).spec.components[name].loader:
            tensors = {_clip_name(key): tensor for key, tensor in tensors.items()}
        encoders[name] = root / f"separate_{name}.safetensors"
        save_file(tensors, encoders[name])
    return Files(folder, root / "ae.safetensors", encoders)


def _clip_name(key: str) -> str:
    """Name a tensor as `clip_l.safetensors` does."""
    return key if key.startswith(("text_model.", "text_projection.")) else f"text_model.{key}"


def opened(family: str, tiny_folder: Folder, vae: Path | None = None, encoders: tuple[Path, ...] = ()) -> ModelSource:
    return ModelSource.open(tiny_folder(family), None, get_family(family).spec, vae, encoders)


def same_weights(first: Any, second: Any) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in theirs)


def fingerprints(source: ModelSource) -> dict[str, str]:
    return source.fingerprints(sha256_files)


@pytest.mark.parametrize("form", ["folder", "component", "file"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.setting("model.vae_path")
def test_another_vae_is_loaded_and_changes_its_fingerprint_alone(
    family: str, form: str, tiny_folder: Folder, tmp_path: Path
) -> None:
    files = other_model(family, tiny_folder, tmp_path)
    path = {"folder": files.folder, "component": files.folder / "vae", "file": files.vae}[form]
    base, ours = opened(family, tiny_folder), opened(family, tiny_folder, vae=path)
    theirs = ModelSource.open(files.folder, None, base.spec)
    assert same_weights(loading.load_vae(ours, torch.float32), loading.load_vae(theirs, torch.float32))
    assert changed(fingerprints(base), fingerprints(ours)) == {"vae"}
    assert ours.parameters("vae") == theirs.parameters("vae")
    assert same_weights(loading.load_denoiser(ours, torch.float32), loading.load_denoiser(base, torch.float32))


@pytest.mark.parametrize("form", ["folder", "component", "file"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.setting("model.text_encoder_paths")
def test_other_text_encoders_are_recognised_and_change_their_fingerprints_alone(
    family: str, form: str, tiny_folder: Folder, tmp_path: Path
) -> None:
    files = other_model(family, tiny_folder, tmp_path)
    folders = tuple(files.folder / name for name in files.encoders)
    # The order of the list says nothing.
    paths = {"folder": (files.folder,), "component": folders[::-1], "file": tuple(files.encoders.values())[::-1]}[form]
    base, ours = opened(family, tiny_folder), opened(family, tiny_folder, encoders=paths)
    theirs = ModelSource.open(files.folder, None, base.spec)
    assert changed(fingerprints(base), fingerprints(ours)) == set(files.encoders)
    for name in files.encoders:
        found, wanted = (loading.load_component(source, name, torch.float32) for source in (ours, theirs))
        assert same_weights(found, wanted), name


@pytest.mark.parametrize("family", FAMILIES)
def test_the_pipeline_renders_with_the_replacements(family: str, tiny_folder: Folder, tmp_path: Path) -> None:
    files = other_model(family, tiny_folder, tmp_path)
    source = opened(family, tiny_folder, files.vae, tuple(files.encoders.values()))
    theirs = ModelSource.open(files.folder, None, source.spec)
    pipeline = loading.load_pipeline(source, torch.float32)
    for name in ("vae", *files.encoders):
        assert same_weights(getattr(pipeline, name), loading.load_component(theirs, name, torch.float32))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_copy_of_the_base_own_components_changes_no_fingerprint(
    family: str, tiny_folder: Folder, tmp_path: Path
) -> None:
    folder = copied(tiny_folder(family), tmp_path / "copy")
    assert fingerprints(opened(family, tiny_folder, folder, (folder,))) == fingerprints(opened(family, tiny_folder))


def test_a_transformer_file_is_a_whole_model_with_separate_files_beside_it(tiny_folder: Folder, tmp_path: Path) -> None:
    """kohya's usual layout for FLUX.1: flux1-dev, ae, clip_l and t5xxl, each in its own file."""
    from safetensors.torch import load_file, save_file

    files, configs = other_model("flux1", tiny_folder, tmp_path), copied(tiny_folder("flux1"), tmp_path / "configs")
    for weights in configs.rglob("*.safetensors"):
        weights.unlink()
    whole = load_file(SINGLE_FILES["flux1"](tiny_folder("flux1"), tmp_path / "model.safetensors"))
    start = "model.diffusion_model."
    alone = {key.removeprefix(start): tensor for key, tensor in whole.items() if key.startswith(start)} or {
        key: tensor for key, tensor in whole.items() if key.startswith(("double_blocks", "single_blocks"))
    }
    save_file(alone, tmp_path / "flux1-dev.safetensors")
    spec, base = get_family("flux1").spec, tmp_path / "flux1-dev.safetensors"
    with pytest.raises(ModelError, match="vae/diffusion_pytorch_model.safetensors is missing"):
        ModelSource.open(base, configs, spec)
    source = ModelSource.open(base, configs, spec, files.vae, tuple(files.encoders.values()))
    assert set(source.fingerprints(sha256_files, single_file_digests)) == set(spec.components)
    theirs = ModelSource.open(files.folder, None, spec)
    for name in ("vae", *files.encoders):
        found, wanted = (loading.load_component(one, name, torch.float32) for one in (source, theirs))
        assert same_weights(found, wanted), name


def refusal(family: str, tiny_folder: Folder, vae: Path | None = None, encoders: tuple[Path, ...] = ()) -> ModelError:
    with pytest.raises(ModelError) as error:
        opened(family, tiny_folder, vae, encoders)
    return error.value


def test_a_missing_or_pickled_replacement_is_refused_by_its_setting(tiny_folder: Folder, tmp_path: Path) -> None:
    error = refusal("sd15", tiny_folder, vae=tmp_path / "gone.safetensors")
    assert error.field == "model.vae_path" and "there is no such file or folder" in str(error)
    (tmp_path / "vae.pt").write_bytes(b"\x80\x04")
    assert "convert it to .safetensors" in str(refusal("sd15", tiny_folder, vae=tmp_path / "vae.pt"))
    (tmp_path / "empty").mkdir()
    error = refusal("sd15", tiny_folder, encoders=(tmp_path / "empty",))
    assert error.field == "model.text_encoder_paths" and "holds no config.json" in str(error)


def test_a_vae_of_another_width_is_refused(tiny_folder: Folder, tmp_path: Path) -> None:
    flux = other_model("flux1", tiny_folder, tmp_path)
    for path in (flux.vae, flux.folder / "vae"):
        message = str(refusal("sd15", tiny_folder, vae=path))
        assert "16" in message and "4" in message
    assert "an AutoencoderKL of width 16" in str(refusal("sd15", tiny_folder, vae=flux.vae))


def test_a_text_encoder_that_the_base_lacks_is_refused(tiny_folder: Folder, tmp_path: Path) -> None:
    flux = other_model("flux1", tiny_folder, tmp_path)
    message = str(refusal("sd15", tiny_folder, encoders=(flux.encoders["text_encoder_2"],)))
    assert "holds a T5 encoder" in message and "This base takes a CLIP text encoder" in message
    assert "wanted CLIPTextModel" in str(refusal("sd15", tiny_folder, encoders=(flux.folder / "text_encoder_2",)))


def test_two_files_for_one_text_encoder_are_refused(tiny_folder: Folder, tmp_path: Path) -> None:
    files = other_model("sd15", tiny_folder, tmp_path)
    (encoder,) = files.encoders.values()
    again = shutil.copy(encoder, tmp_path / "again.safetensors")
    assert "are both for text_encoder" in str(refusal("sd15", tiny_folder, encoders=(encoder, Path(again))))


def test_scaled_weights_are_refused(tiny_folder: Folder, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    files = other_model("flux1", tiny_folder, tmp_path)
    path = files.encoders["text_encoder_2"]
    save_file({**load_file(path), "scaled_fp8": torch.zeros(1)}, tmp_path / "fp8.safetensors")
    assert "scaled 8-bit numbers" in str(refusal("flux1", tiny_folder, encoders=(tmp_path / "fp8.safetensors",)))


def test_other_files_of_a_single_file_base_are_hashed_once_each(tiny_folder: Folder, tmp_path: Path) -> None:
    files = other_model("sd15", tiny_folder, tmp_path)
    base = SINGLE_FILES["sd15"](tiny_folder("sd15"), tmp_path / "base.safetensors")
    plain = prints(base, "sd15", tiny_folder("sd15"))
    source = ModelSource.open(base, tiny_folder("sd15"), get_family("sd15").spec, files.vae)
    assert changed(plain, source.fingerprints(sha256_files, single_file_digests)) == {"vae"}
    assert json.loads((tiny_folder("sd15") / "vae/config.json").read_text())["latent_channels"] == 4
