"""Schemes of quantised bases: what they store, how far they are from the weights, what they leave alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from tests.contract.models import MODELS
from trainer_core.families import get_family
from trainer_core.families.model_source import ModelSource
from trainer_core.families.shared import denoisers, loading
from trainer_core.families.storage import kept_copy
from trainer_core.families.storage.quantised_linear import CODECS, QuantisedLinear
from trainer_core.families.storage.replace import chosen_layers, quantise
from trainer_core.families.storage.schemes import SCHEMES, SchemeName, Storage, StoredModules

SCHEME_NAMES: list[Any] = list(SCHEMES)
OUT, IN, ROWS = 128, 192, 40
WORST_WEIGHT_ERROR = {"fp8": 0.028, "int8": 0.010, "nf4": 0.10}
"""Relative to the norm of normally distributed weights; a plain cast to e4m3 has 0.033, rounding to bf16 0.0017."""


def weight(seed: int = 0) -> Tensor:
    return torch.randn(OUT, IN, generator=torch.Generator().manual_seed(seed)) * 0.02


def layer(scheme: SchemeName, eight_bit: bool = False) -> QuantisedLinear:
    made = QuantisedLinear(OUT, IN, scheme, eight_bit)
    made.give(CODECS[scheme].encode(weight()))
    return made


def inputs(rows: int = ROWS) -> Tensor:
    return torch.randn(rows, IN, generator=torch.Generator().manual_seed(1))


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found.float() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("scheme", SCHEME_NAMES)
def test_a_scheme_stores_what_its_row_says_and_is_as_near_as_documented(scheme: SchemeName) -> None:
    made, stored = layer(scheme), SCHEMES[scheme].parts(OUT, IN)
    assert {name: (tuple(part.shape), str(part.dtype)) for name, part in made.parts.items()} == {
        name: (part.shape, f"torch.{part.dtype}") for name, part in stored.items()
    }
    assert sum(part.numel() * part.element_size() for part in made.parameters()) == SCHEMES[scheme].nbytes(OUT, IN)
    assert 0 < error(made.matrix(torch.float32), weight()) < WORST_WEIGHT_ERROR[scheme]


@pytest.mark.parametrize("scheme", ["fp8", "int8"])
def test_a_row_of_large_weights_costs_the_other_rows_nothing(scheme: SchemeName) -> None:
    skewed = weight()
    skewed[0] *= 1000
    parts = CODECS[scheme].encode(skewed)
    found = CODECS[scheme].decode(parts, (OUT, IN), torch.float32)
    assert error(found[1:], skewed[1:]) < WORST_WEIGHT_ERROR[scheme]


@pytest.mark.parametrize("scheme", SCHEME_NAMES)
def test_rows_of_zeros_stay_zeros(scheme: SchemeName) -> None:
    parts = CODECS[scheme].encode(torch.zeros(OUT, IN))
    assert not CODECS[scheme].decode(parts, (OUT, IN), torch.float32).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scheme", SCHEME_NAMES)
def test_output_and_gradient_are_those_of_a_linear_layer_with_the_matrix(
    scheme: SchemeName, dtype: torch.dtype
) -> None:
    made = layer(scheme)
    made.bias = nn.Parameter(torch.randn(OUT, generator=torch.Generator().manual_seed(2)), requires_grad=False)
    x, same = (inputs().to(dtype).requires_grad_() for _ in range(2))
    found, wanted = made(x), functional.linear(same, made.matrix(dtype), made.bias.to(dtype))
    found.float().square().sum().backward()
    wanted.float().square().sum().backward()
    assert torch.equal(found, wanted)
    assert x.grad is not None and same.grad is not None
    assert torch.equal(x.grad, same.grad)


@pytest.mark.parametrize("scheme", SCHEME_NAMES)
def test_the_backward_pass_holds_no_matrix(scheme: SchemeName) -> None:
    made, saved = layer(scheme), list[int]()

    def note(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        made(inputs().requires_grad_())
    assert sum(saved) == SCHEMES[scheme].nbytes(OUT, IN), "its own parts, which lie in memory anyway"


@pytest.mark.parametrize("scheme", SCHEME_NAMES)
def test_casting_the_model_changes_no_number_of_a_scheme(scheme: SchemeName) -> None:
    made = layer(scheme)
    before = made.matrix(torch.float32)
    assert torch.equal(made.to(torch.float16).matrix(torch.float32), before)


def test_autocast_decides_the_precision_of_the_arithmetic() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert layer("int8")(inputs()).dtype == torch.bfloat16
    assert layer("int8")(inputs()).dtype == torch.float32


@pytest.mark.parametrize("scheme", [name for name, scheme in SCHEMES.items() if scheme.matmul])
def test_eight_bit_arithmetic_adds_little_and_leaves_the_gradient_to_the_matrix(scheme: SchemeName) -> None:
    made, plain = layer(scheme, eight_bit=True), layer(scheme)
    x, same = inputs().requires_grad_(), inputs().requires_grad_()
    found, wanted = made(x), plain(same)
    assert 0 < error(found.detach(), wanted.detach()) < 0.04
    found.sum().backward()
    wanted.sum().backward()
    assert x.grad is not None and same.grad is not None
    assert torch.equal(x.grad, same.grad)


@pytest.mark.parametrize("scheme", [name for name, scheme in SCHEMES.items() if scheme.matmul])
def test_too_few_rows_for_the_kernels_are_multiplied_by_the_matrix(scheme: SchemeName) -> None:
    few = inputs(16)
    assert torch.equal(layer(scheme, eight_bit=True)(few), layer(scheme)(few))


def open_denoiser(name: str, tiny_bases: Mapping[str, Path], dtype: torch.dtype, **given: Any) -> Any:
    source = ModelSource.open(tiny_bases[name], None, get_family(MODELS[name].family).spec)
    return loading.load_denoiser(source, dtype, **given)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_choices_of_layers_grow_and_leave_ends_and_norms_dense(name: str, tiny_bases: Mapping[str, Path]) -> None:
    model = open_denoiser(name, tiny_bases, torch.float32)
    layers = get_family(MODELS[name].family).spec.stored_layers
    chosen = [set(chosen_layers(model, layers, Storage("int8", modules))) for modules in get_args(StoredModules)]
    assert chosen[0] <= chosen[1] <= chosen[2]
    every = {path for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    small = {path for path in every if re.match(r"(x_embedder|context_embedder|img_in|proj_out|norm_out)", path)}
    assert not small & chosen[2]
    assert chosen[0]
    modulation = chosen[1] - chosen[0]
    assert bool(modulation) == bool(layers.modulation)


@pytest.mark.parametrize("scheme", SCHEME_NAMES)
def test_a_base_that_is_quantised_while_it_is_read_is_the_one_that_is_quantised_afterwards(
    scheme: SchemeName, tiny_bases: Mapping[str, Path]
) -> None:
    storage = Storage(scheme)
    read = open_denoiser("flux1", tiny_bases, torch.float32, storage=storage)
    after = quantise(open_denoiser("flux1", tiny_bases, torch.float32), get_family("flux1").spec.stored_layers, storage)
    found, wanted = read.state_dict(), after.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert denoisers.dtype_of(read) == torch.float32
    assert not any(parameter.requires_grad for parameter in read.parameters())


@pytest.mark.parametrize("scheme", SCHEME_NAMES)
def test_a_kept_copy_is_the_same_model_and_a_readable_file(
    scheme: SchemeName, tiny_bases: Mapping[str, Path], tmp_path: Path
) -> None:
    storage, file = Storage(scheme), tmp_path / "kept.safetensors"
    first = open_denoiser("flux1", tiny_bases, torch.bfloat16, storage=storage)
    kept_copy.write(file, first)
    second = open_denoiser("flux1", tiny_bases, torch.bfloat16, storage=storage, kept=file)
    found, wanted = second.state_dict(), first.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) and found[name].dtype == wanted[name].dtype for name in wanted)
    assert file.stat().st_size < 1.05 * sum(each.nbytes for each in load_file(file).values()) + 65536
