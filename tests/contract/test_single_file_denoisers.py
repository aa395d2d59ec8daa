"""Single files that hold a transformer alone, under its authors' names: the rest comes from model.config_path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.tiny.denoiser_files import flux2_file, z_image_file
from trainer_core.errors import ModelError
from trainer_core.families import family_names, get_family
from trainer_core.families.model_source import ModelSource
from trainer_core.families.shared import loading

Renamed = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
FILES: list[tuple[str, str, Renamed]] = [
    ("flux2", "flux2", flux2_file),
    ("flux2", "flux2_klein", flux2_file),
    ("z_image", "z_image", z_image_file),
]


@pytest.mark.parametrize(("family", "model", "renamed"), FILES)
def test_a_file_of_the_transformer_alone_loads_the_same_weights(
    family: str, model: str, renamed: Renamed, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    spec, folder = get_family(family).spec, tiny_folder(model)
    whole = ModelSource.open(folder, None, spec)
    wanted = loading.load_denoiser(whole, torch.float32).state_dict()
    file = tmp_path / "model.safetensors"
    save_file({name: one.contiguous() for name, one in renamed(wanted).items()}, file)
    source = ModelSource.open(file, folder, spec)
    assert source.spec == whole.spec
    assert [name for name in spec.components if source.in_file(name)] == ["transformer"]
    found = loading.load_denoiser(source, torch.float32).state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    for other in set(family_names()) - {family}:
        with pytest.raises(ModelError, match=f"It looks like `{family}`: set"):
            ModelSource.open(file, folder, get_family(other).spec)
