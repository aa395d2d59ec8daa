"""Single-file checkpoints load to the very weights of the folder that they were made from."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.tiny import SINGLE_FILES
from tests.tiny.flux_file import INNER_WIDTH
from trainer_core.errors import ModelError
from trainer_core.families import get_family
from trainer_core.families.model_source import ModelSource
from trainer_core.families.shared import loading
from trainer_core.families.shared.loading import load_component


@pytest.fixture(autouse=True)
def _converter_of_the_tiny_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers' FLUX converter knows one width, 3072: give it ours."""
    from diffusers.loaders import single_file_model

    entry = single_file_model.SINGLE_FILE_LOADABLE_CLASSES["FluxTransformer2DModel"]
    convert = entry["checkpoint_mapping_fn"]
    constants = tuple(INNER_WIDTH if constant == 3072 else constant for constant in convert.__code__.co_consts)
    code = convert.__code__.replace(co_consts=constants)
    monkeypatch.setitem(entry, "checkpoint_mapping_fn", types.FunctionType(code, convert.__globals__))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", sorted(SINGLE_FILES))
def test_a_single_file_loads_the_same_weights(
    family: str, dtype: torch.dtype, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    spec, folder = get_family(family).spec, tiny_folder(family)
    file = SINGLE_FILES[family](folder, tmp_path / "model.safetensors")
    theirs, ours = ModelSource.open(folder, None, spec), ModelSource.open(file, folder, spec)
    for name in [name for name, component in spec.components.items() if component.kind == "model"]:
        assert ours.in_file(name)
        wanted, found = (load_component(source, name, dtype).state_dict() for source in (theirs, ours))
        assert found.keys() == wanted.keys()
        for key in wanted:
            assert found[key].dtype == wanted[key].dtype
            assert torch.equal(found[key], wanted[key]), f"{name}: {key}"
            assert found[key].data_ptr() % 64 == 0


@pytest.mark.parametrize("family", sorted(SINGLE_FILES))
@pytest.mark.setting("model.config_path")
def test_the_pipeline_of_a_single_file_is_built_offline(
    family: str, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tiny_folder(family)
    file = SINGLE_FILES[family](folder, tmp_path / "model.safetensors")
    source = ModelSource.open(file, folder, get_family(family).spec)
    assert type(loading.load_pipeline(source, torch.float32)).__name__ == source.spec.pipeline


@pytest.mark.parametrize(
    ("component", "tensor"),
    [
        ("unet", "model.diffusion_model.out.2.weight"),
        ("vae", "first_stage_model.encoder.conv_in.weight"),
        ("text_encoder", "cond_stage_model.transformer.text_model.final_layer_norm.weight"),
    ],
)
def test_a_missing_tensor_is_an_error_not_a_random_weight(
    component: str, tensor: str, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = tiny_folder("sd15")
    file = SINGLE_FILES["sd15"](folder, tmp_path / "model.safetensors")
    tensors = load_file(file)
    del tensors[tensor]
    save_file(tensors, file)
    source = ModelSource.open(file, folder, get_family("sd15").spec)
    with pytest.raises(ModelError, match="1 tensors are missing|does not fit"):
        load_component(source, component, torch.float32)


def test_configs_of_another_model_are_an_error(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(tiny_folder("sd15"), tmp_path / "configs"))
    file = SINGLE_FILES["sd15"](folder, tmp_path / "model.safetensors")
    config = folder / "unet/config.json"
    config.write_text(config.read_text().replace("32", "64"))
    source = ModelSource.open(file, folder, get_family("sd15").spec)
    with pytest.raises(ModelError, match="Give model.config_path the configs of this very model"):
        load_component(source, "unet", torch.float32)


def test_a_missing_tensor_of_a_folder_is_an_error(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(tiny_folder("sd15"), tmp_path / "model"))
    for component, file in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        path = folder / component / f"{file}.safetensors"
        tensors = load_file(path)
        del tensors[min(tensors)]
        save_file(tensors, path, metadata={"format": "pt"})
        source = ModelSource.open(folder, None, get_family("sd15").spec)
        with pytest.raises(ModelError, match="tensors are missing"):
            load_component(source, component, torch.float32)


def test_a_text_encoder_named_as_transformers_4_did_loads(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(tiny_folder("sd15"), tmp_path / "model"))
    path = folder / "text_encoder/model.safetensors"
    tensors = {"text_model." + name.removeprefix("text_model."): value for name, value in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    spec = get_family("sd15").spec
    old, new = (ModelSource.open(place, None, spec) for place in (folder, tiny_folder("sd15")))
    wanted = load_component(new, "text_encoder", torch.float32).state_dict()
    found = load_component(old, "text_encoder", torch.float32).state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
