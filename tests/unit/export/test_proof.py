from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.unit.export.support import config_of, modules_in, random_lora, targets
from trainer_core.errors import ExportError
from trainer_core.export.hollow_models import hollow_denoiser, modules_of
from trainer_core.export.proof import BOUNDS, FileProof, prove
from trainer_core.export.readers.with_diffusers import load_with_diffusers
from trainer_core.export.write import Lora, exported_tensors, write_lora
from trainer_core.families import get_family
from trainer_core.families.spec import PrecisionName

Sabotage = Callable[[dict[str, Tensor]], dict[str, Tensor]]
FAMILIES = ("sd15", "sdxl", "flux1")


@pytest.fixture(scope="module")
def loras(tiny_bases: dict[str, Path]) -> dict[str, Lora]:
    found = {family: modules_in(tiny_bases[family], family) for family in FAMILIES}
    return {family: random_lora(own, targets(own)) for family, own in found.items()}


@pytest.fixture
def proven(tmp_path: Path, loras: dict[str, Lora], tiny_bases: dict[str, Path]) -> Callable[..., FileProof]:
    """Write a file, spoil it if asked to, and prove it."""

    def run(
        family: str, name: str, dtype: PrecisionName = "fp16", spoil: Sabotage = lambda tensors: tensors
    ) -> FileProof:
        lora, path = loras[family], tmp_path / "lora.safetensors"
        write_lora(path, spoil(exported_tensors(lora, name, dtype)), {})
        return prove(path, name, lora, dtype, config_of(tiny_bases[family], family))

    return run


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_sound_file_is_proven_in_every_precision(
    proven: Callable[..., FileProof], loras: dict[str, Lora], family: str, dtype: PrecisionName
) -> None:
    for name in ("diffusers", "kohya", "comfyui"):
        proof = proven(family, name, dtype)
        assert proof.ok
        assert proof.modules == len(loras[family].layers)
        assert proof.max_relative_error <= proof.bound == BOUNDS[dtype]
        assert name != "comfyui" or proof.comfyui_coverage == 1.0
        # the tiny FLUX.1 is narrower than what diffusers' converter of kohya's keys takes for granted
        assert (proof.reader == "diffusers") == ((family, name) != ("flux1", "kohya"))
        assert bool(proof.note) == (proof.reader != "diffusers")


def _pick(tensors: dict[str, Tensor], *ends: str) -> str:
    return next(key for key in sorted(tensors) if key.endswith(ends))


def half_alpha(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor / 2 if key.endswith((".alpha", "lora_B.weight")) else tensor for key, tensor in tensors.items()}


def renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    key = _pick(tensors, "lora_B.weight", "lora_up.weight")
    return {name.replace("blocks", "blcks") if name == key else name: tensor for name, tensor in tensors.items()}


def transposed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    key = _pick(tensors, "lora_B.weight", "lora_up.weight")
    return {**tensors, key: tensors[key].T.contiguous()}


def zeroed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    key = _pick(tensors, "lora_B.weight", "lora_up.weight")
    return {**tensors, key: torch.zeros_like(tensors[key])}


def shuffled(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    key = _pick(tensors, "lora_B.weight", "lora_up.weight")
    return {**tensors, key: tensors[key].flip(0).contiguous()}


def swapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give to_k's weights to to_q, which has their shape, and the other way round."""
    return {_swap(key): tensor for key, tensor in tensors.items()}


def _swap(key: str) -> str:
    return key.replace("to_q.", "to_X.").replace("to_k.", "to_q.").replace("to_X.", "to_k.")


def without_one(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    module = _pick(tensors, "lora_B.weight", "lora_up.weight").rsplit(".", 2)[0]
    return {key: tensor for key, tensor in tensors.items() if not key.startswith(f"{module}.")}


@pytest.mark.parametrize("spoil", [half_alpha, renamed, transposed, zeroed, shuffled, without_one])
@pytest.mark.parametrize(
    ("family", "name"), [("sd15", "diffusers"), ("sdxl", "comfyui"), ("flux1", "diffusers"), ("flux1", "kohya")]
)
def test_sabotage_is_caught_and_named(
    proven: Callable[..., FileProof], family: str, name: str, spoil: Sabotage
) -> None:
    with pytest.raises(ExportError, match=r"lora\.safetensors.*(lora_|transformer\.|unet\.)"):
        proven(family, name, spoil=spoil)


def test_two_modules_of_one_shape_that_were_swapped_are_caught(proven: Callable[..., FileProof]) -> None:
    with pytest.raises(ExportError, match=r"to_[qk]\.lora_B\.weight: its update is off by .*run again"):
        proven("flux1", "diffusers", spoil=swapped)


def test_what_rounding_alone_cannot_explain_is_caught(proven: Callable[..., FileProof]) -> None:
    def nudged(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        key = _pick(tensors, "lora_B.weight")
        return {**tensors, key: tensors[key] * 1.004}

    with pytest.raises(ExportError, match="at most 0.001 is rounding"):
        proven("sd15", "diffusers", spoil=nudged)
    with pytest.raises(ExportError, match="at most 1e-06 is rounding"):
        proven("sd15", "diffusers", "fp32", lambda t: {key: one * (1 + 2e-6) for key, one in t.items()})


def test_comfyuis_own_file_must_be_mapped_whole(
    loras: dict[str, Lora], tiny_bases: dict[str, Path], tmp_path: Path
) -> None:
    lora, path = loras["sd15"], tmp_path / "lora.safetensors"
    write_lora(path, exported_tensors(lora, "diffusers", "fp16"), {})
    config = config_of(tiny_bases["sd15"], "sd15")
    with pytest.raises(ExportError, match=r"unet\..*lora_[AB]\.weight|ComfyUI"):
        prove(path, "comfyui", lora, "fp16", config)


def test_a_hollow_denoiser_has_every_shape_and_takes_no_memory(tiny_bases: dict[str, Path]) -> None:
    spec = get_family("sdxl").spec
    model = hollow_denoiser(spec, config_of(tiny_bases["sdxl"], "sdxl"))
    assert sum(parameter.untyped_storage().nbytes() for parameter in model.parameters()) == 4 * len(
        list(model.parameters())
    )
    assert not any(parameter.is_meta for parameter in model.parameters())


def test_diffusers_reads_our_fused_flux_keys_at_the_real_width(tmp_path: Path) -> None:
    spec = get_family("flux1").spec
    config = {"num_layers": 1, "num_single_layers": 1, "guidance_embeds": True}
    own = modules_of(spec, {"transformer": hollow_denoiser(spec, config)})
    lora = random_lora(own, targets(own), rank=2, alpha=3.0)
    path = tmp_path / "lora.safetensors"
    write_lora(path, exported_tensors(lora, "kohya", "fp16"), {})
    proof = prove(path, "kohya", lora, "fp16", config)
    assert (proof.reader, proof.note, proof.comfyui_coverage) == ("diffusers", "", 1.0)
    assert load_with_diffusers(path, spec, config).keys() == lora.layers.keys()
