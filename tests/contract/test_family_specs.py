"""What every family says of itself, and what importing it costs."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch

from tests.contract.support import Tiny
from trainer_core.errors import ModelError
from trainer_core.families import family_names, get_family

USUAL = ("attention", "attention+mlp", "all-linear")
EXTRA = {"all-linear+modulation", "all-linear+conv1x1", "unet-blocks"}
RESNETS = re.compile(r"(.*\.)?resnets\.\d+\..*")
BLOCKS = re.compile(r"((.*\.)?attentions|\w*transformer_blocks|layers|\w+_refiner)\.\d+\..*")
MODULATION = re.compile(r"norm|_mod\b|modulation")


def test_every_family_is_found_under_its_own_name() -> None:
    assert {"sd15", "sdxl", "flux1"} <= set(family_names())
    assert all(get_family(name).spec.name == name for name in family_names())


@pytest.mark.parametrize(("wrong", "meant"), [("flux", "flux1"), ("SDXL", "sdxl"), ("sd-1.5", "sd15"), ("sd1", "sd15")])
def test_a_misspelt_family_is_answered_with_the_nearest_one(wrong: str, meant: str) -> None:
    with pytest.raises(ModelError, match=rf"`{re.escape(wrong)}`.*Did you mean `{meant}`"):
        get_family(wrong)


def test_a_name_that_is_near_to_two_families_is_answered_with_both() -> None:
    with pytest.raises(ModelError, match="Did you mean `flux1` or `flux2`"):
        get_family("flux")


@pytest.mark.parametrize("name", ["base", "source", "_parts", "os", ""])
def test_a_helper_module_is_no_family(name: str) -> None:
    with pytest.raises(ModelError, match="not a known family"):
        get_family(name)


def test_reading_specs_and_opening_models_imports_no_torch() -> None:
    code = (
        "import sys; from trainer_core.families import family_names, get_family, model_source;"
        "[get_family(n).spec for n in family_names()];"
        "heavy = {'torch', 'diffusers', 'transformers', 'numpy', 'safetensors'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_spec_is_consistent(tiny: Tiny) -> None:
    spec = tiny.family.spec
    used = {*spec.vae_components, *spec.text_components, *spec.denoiser_components}
    assert used == set(spec.components), "a component outside every group would be in no key"
    assert spec.denoiser in spec.denoiser_components
    assert "scheduler" in spec.denoiser_components
    assert type(tiny.pipeline).__name__ == spec.pipeline
    assert spec.latents.precisions[0] == "fp32"
    assert spec.size_multiple % 8 == 0
    assert list(spec.targets)[:3] == list(USUAL)
    assert set(spec.targets) - set(USUAL) <= EXTRA


def test_components_name_the_classes_of_the_pipeline(tiny: Tiny) -> None:
    for name, component in tiny.family.spec.components.items():
        if component.kind == "model":
            assert type(getattr(tiny.pipeline, name)).__name__ == component.loader


def is_linear(module: torch.nn.Module) -> bool:
    """A 1x1 convolution is a linear layer of each place."""
    return type(module) is torch.nn.Linear or (type(module) is torch.nn.Conv2d and module.kernel_size == (1, 1))


def test_targets_match_linear_layers_inside_blocks_alone(tiny: Tiny) -> None:
    modules = dict(tiny.denoiser.named_modules())
    for preset, pattern in tiny.family.spec.targets.items():
        matched = [name for name in modules if re.fullmatch(pattern, name)]
        assert matched
        assert all(is_linear(modules[name]) for name in matched)
        assert all(BLOCKS.fullmatch(name) or (preset == "unet-blocks" and RESNETS.fullmatch(name)) for name in matched)
        modulation = [name for name in matched if MODULATION.search(name)]
        assert bool(modulation) == (preset == "all-linear+modulation")


def test_all_linear_with_modulation_is_every_linear_of_the_blocks(tiny: Tiny) -> None:
    modules = dict(tiny.denoiser.named_modules())
    wanted = {name for name, module in modules.items() if type(module) is torch.nn.Linear and BLOCKS.fullmatch(name)}
    for preset in {"all-linear+modulation"} & set(tiny.family.spec.targets):
        assert {name for name in modules if re.fullmatch(tiny.family.spec.targets[preset], name)} == wanted


def test_all_linear_is_every_linear_of_the_blocks_but_their_modulation(tiny: Tiny) -> None:
    modules = dict(tiny.denoiser.named_modules())
    wanted = {
        name
        for name, module in modules.items()
        if type(module) is torch.nn.Linear and BLOCKS.fullmatch(name) and not MODULATION.search(name)
    }
    matched = {name for name in modules if re.fullmatch(tiny.family.spec.targets["all-linear"], name)}
    assert {name for name in matched if type(modules[name]) is torch.nn.Linear} == wanted


def test_each_preset_contains_the_smaller_one(tiny: Tiny) -> None:
    names = [name for name, _ in tiny.denoiser.named_modules()]
    few, more, most = (
        {name for name in names if re.fullmatch(tiny.family.spec.targets[preset], name)} for preset in USUAL
    )
    assert few < more <= most
    assert all("attn" in name or "attention" in name for name in few)
