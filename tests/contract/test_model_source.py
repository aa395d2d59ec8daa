"""Opening base models: what counts as content, and what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.contract.support import sha256_files
from tests.tiny import SINGLE_FILES
from trainer_core.errors import ModelError
from trainer_core.families import family_names, get_family
from trainer_core.families.model_source import ModelSource, single_file_digests
from trainer_core.families.spec import SingleFileSpec

MODELS = [
    (name, component)
    for name in family_names()
    for component, spec in get_family(name).spec.components.items()
    if spec.kind == "model"
]


def prints(path: Path, family: str, config: Path | None = None) -> dict[str, str]:
    """Return the fingerprints of a model."""
    return ModelSource.open(path, config, get_family(family).spec).fingerprints(sha256_files)


def copied(folder: Path, target: Path) -> Path:
    """Copy a model so that a test may change it."""
    return Path(shutil.copytree(folder, target))


def weights_of(folder: Path, component: str) -> Path:
    """Return the weights of one component."""
    return next((folder / component).glob("*.safetensors"))


def flip_last_byte(file: Path) -> None:
    """Change one bit of the last tensor of a file."""
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    """Return the components whose fingerprints differ."""
    return {name for name in before if before[name] != after[name]}


def refusal(path: Path, family: str, config: Path | None = None) -> str:
    """Return the message with which a model is refused."""
    with pytest.raises(ModelError) as caught:
        ModelSource.open(path, config, get_family(family).spec)
    return str(caught.value)


@pytest.mark.parametrize("family", family_names())
def test_a_moved_model_keeps_its_fingerprints(family: str, tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tiny_folder(family)
    assert prints(copied(folder, tmp_path / "elsewhere"), family) == prints(folder, family)


@pytest.mark.parametrize(("family", "component"), MODELS)
def test_other_weights_change_the_fingerprint_of_their_component_alone(
    family: str, component: str, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = copied(tiny_folder(family), tmp_path / "model")
    before = prints(folder, family)
    flip_last_byte(weights_of(folder, component))
    assert changed(before, prints(folder, family)) == {component}


def test_the_scaling_factor_of_the_vae_is_part_of_its_fingerprint(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = copied(tiny_folder("sd15"), tmp_path / "model")
    before, config = prints(folder, "sd15"), folder / "vae/config.json"
    config.write_text(config.read_text().replace("0.18215", "0.13025"))
    assert changed(before, prints(folder, "sd15")) == {"vae"}


def test_files_that_no_loader_reads_do_not_count(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copied(tiny_folder("sd15"), tmp_path / "model")
    before = prints(folder, "sd15")
    (folder / "README.md").write_text("words")
    (folder / "unet/diffusion_pytorch_model.fp16.safetensors").write_bytes(b"other")
    (folder / "unet/diffusion_pytorch_model.bin").write_bytes(b"other")
    (folder / "tokenizer/notes.txt").write_text("words")
    assert prints(folder, "sd15") == before


def test_the_shards_of_an_index_are_all_read(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = copied(tiny_folder("sd15"), tmp_path / "model")
    weights = weights_of(folder, "unet")
    tensors = load_file(weights)
    names, stem = sorted(tensors), "diffusion_pytorch_model"
    weights.unlink()
    halves = {f"{stem}-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, part in halves.items():
        save_file({name: tensors[name].clone() for name in part}, folder / "unet" / file)
    index = {"weight_map": {name: file for file, part in halves.items() for name in part}}
    (folder / f"unet/{stem}.safetensors.index.json").write_text(json.dumps(index))
    source = ModelSource.open(folder, None, get_family("sd15").spec)
    assert [file.name for file in source.component_files("unet")] == [
        "config.json",
        *halves,
        f"{stem}.safetensors.index.json",
    ]
    (folder / "unet" / min(halves)).unlink()
    assert f"unet/{min(halves)} is missing" in refusal(folder, "sd15")


def test_every_problem_is_told_at_once(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copied(tiny_folder("sdxl"), tmp_path / "model")
    shutil.rmtree(folder / "tokenizer_2")
    (folder / "scheduler/scheduler_config.json").unlink()
    weights_of(folder, "vae").rename(folder / "vae/diffusion_pytorch_model.bin")
    (folder / "text_encoder/config.json").write_text("{")
    message = refusal(folder, "sdxl")
    for part in (
        "tokenizer_2/tokenizer_config.json is missing",
        "scheduler/scheduler_config.json is missing",
        "There is diffusion_pytorch_model.bin, but pickled weights can run code",
        "text_encoder/config.json: cannot be read as JSON",
    ):
        assert part in message


@pytest.mark.parametrize("family", family_names())
def test_a_model_of_another_family_is_named(family: str, tiny_folder: Callable[[str], Path]) -> None:
    for other in family_names():
        if other != family:
            assert f"Set model.family to `{family}`" in refusal(tiny_folder(family), other)


def test_a_path_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "there is no such file or folder" in refusal(tmp_path / "nowhere", "sd15")
    assert "model_index.json is missing" in refusal(tmp_path, "sd15")
    message = refusal(tmp_path / "gone.safetensors", "sd15")
    assert "there is no such file" in message and "needs model.config_path" in message


@pytest.mark.parametrize("ending", [".ckpt", ".bin", ".pt"])
def test_a_pickled_checkpoint_is_refused_with_the_reason(ending: str, tmp_path: Path) -> None:
    (tmp_path / f"model{ending}").write_bytes(b"\x80\x04")
    assert "can run code when they are opened" in refusal(tmp_path / f"model{ending}", "sd15")


def test_an_unreadable_file_is_an_error(tiny_folder: Callable[[str], Path]) -> None:
    source = ModelSource.open(tiny_folder("sd15"), None, get_family("sd15").spec)
    with pytest.raises(ModelError, match=r"cannot read .*unet"):
        source.fingerprints(lambda files: sha256_files([file for file in files if "unet" not in file.parts]))


@pytest.mark.parametrize("family", sorted(SINGLE_FILES))
def test_a_single_file_is_recognised_by_its_tensors(
    family: str, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tiny_folder(family)
    file = SINGLE_FILES[family](folder, tmp_path / "model.safetensors")
    assert set(prints(file, family, folder)) == set(get_family(family).spec.components)
    for other in family_names():
        if other != family:
            assert f"It looks like `{family}`" in refusal(file, other, folder)


def test_a_family_without_marks_takes_no_single_file(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    file = SINGLE_FILES["sd15"](tiny_folder("sd15"), tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="It looks like `sd15`"):
        ModelSource.open(file, tiny_folder("sd15"), replace(get_family("sd15").spec, single_file=SingleFileSpec()))


@pytest.mark.parametrize(("family", "component"), [pair for pair in MODELS if pair[0] in SINGLE_FILES])
def test_other_tensors_in_a_single_file_change_their_component_alone(
    family: str, component: str, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tiny_folder(family)
    file = SINGLE_FILES[family](folder, tmp_path / "one.safetensors")
    source = ModelSource.open(file, folder, get_family(family).spec)
    name = source.file_parts[source.part(component)][0]
    other = rewritten(file, tmp_path / "two.safetensors", change=name)
    assert changed(prints(file, family, folder), prints(other, family, folder)) == {component}


def rewritten(file: Path, target: Path, change: str | None = None) -> Path:
    """Write a checkpoint again with its tensors in another order and new metadata, and perhaps one tensor changed."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(file)
    if change is not None:
        tensors[change] = tensors[change] + 1
    save_file({name: tensors[name] for name in reversed(tensors)}, target, metadata={"title": "another"})
    return target


def test_metadata_and_the_folder_of_a_single_file_do_not_count(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    file = SINGLE_FILES["sd15"](tiny_folder("sd15"), tmp_path / "one.safetensors")
    same = rewritten(file, tmp_path / "two.safetensors")
    assert hashlib.sha256(file.read_bytes()).digest() != hashlib.sha256(same.read_bytes()).digest()
    assert single_file_digests(file) == single_file_digests(same)


def test_a_single_file_takes_its_configs_from_beside_it(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copied(tiny_folder("sd15"), tmp_path / "configs")
    file = SINGLE_FILES["sd15"](folder, tmp_path / "model.safetensors")
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()
    before, config = prints(file, "sd15", folder), folder / "vae/config.json"
    config.write_text(config.read_text().replace("0.18215", "0.2"))
    assert changed(before, prints(file, "sd15", folder)) == {"vae"}
    shutil.rmtree(folder / "tokenizer")
    assert "tokenizer/tokenizer_config.json is missing" in refusal(file, "sd15", folder)


def test_a_component_that_the_file_lacks_comes_from_the_folder_of_configs(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = copied(tiny_folder("sd15"), tmp_path / "configs")
    whole = SINGLE_FILES["sd15"](folder, tmp_path / "whole.safetensors")
    file = tmp_path / "without_vae.safetensors"
    save_file({k: v for k, v in load_file(whole).items() if not k.startswith("first_stage_model.")}, file)
    assert prints(file, "sd15", folder)["vae"] == prints(folder, "sd15")["vae"]
    weights_of(folder, "vae").unlink()
    assert "vae/diffusion_pytorch_model.safetensors is missing" in refusal(file, "sd15", folder)


def test_a_file_cut_short_is_refused(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tiny_folder("sd15")
    file = SINGLE_FILES["sd15"](folder, tmp_path / "model.safetensors")
    whole = file.read_bytes()
    for length, words in (
        (len(whole) - 1, "cut short"),
        (100, "not a safetensors file, or cut short"),
        (0, "cut short"),
    ):
        file.write_bytes(whole[:length])
        assert words in refusal(file, "sd15", folder)
    file.write_bytes((20).to_bytes(8, "little") + b"\xff" * 20)
    assert "header is damaged" in refusal(file, "sd15", folder)


def test_scaled_eight_bit_weights_are_refused(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = tiny_folder("sd15")
    file = SINGLE_FILES["sd15"](folder, tmp_path / "model.safetensors")
    save_file(load_file(file) | {"model.diffusion_model.out.2.scale_weight": torch.ones(1)}, file)
    assert "scaled 8-bit" in refusal(file, "sd15", folder)


def test_the_same_bytes_in_another_shape_or_type_are_other_weights(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    whole = torch.arange(4, dtype=torch.int32).reshape(2, 2)
    digests = set[str]()
    for place, tensor in enumerate((whole, whole.reshape(4, 1), whole.view(torch.float32))):
        save_file({"vae.weight": tensor.contiguous()}, tmp_path / f"{place}.safetensors")
        digests.add(single_file_digests(tmp_path / f"{place}.safetensors")["vae"])
    assert len(digests) == 3
