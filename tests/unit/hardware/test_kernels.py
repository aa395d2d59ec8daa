"""Kernels are chosen for a run and leave no trace after it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.backends import cuda

from trainer_core.hardware import kernels
from trainer_core.hardware.kernel_scope import attention_order, compile_blocks, float32_products, more_graphs
from trainer_core.hardware.kernels import chosen_attention, compiles
from trainer_core.hardware.placement import use_attention
from trainer_core.hardware.profiles import PROFILES

ROWS = {profile.name: profile for profile in PROFILES}


@pytest.mark.setting("hardware.attention")
@pytest.mark.parametrize(
    ("row", "asked", "chosen"),
    [
        ("h100", "auto", "cudnn"),
        ("h100", "native", "sdpa"),
        ("rtx4090", "auto", "sdpa"),
        ("rtx4090", "flash", "flash"),
        ("cpu", "auto", "math"),
        ("cpu", "cudnn", "math"),
    ],
)
def test_attention_is_the_rows_unless_another_is_asked_for_on_a_gpu(row: str, asked: str, chosen: str) -> None:
    assert chosen_attention(ROWS[row], asked) == chosen


@pytest.mark.parametrize("choice", ["sdpa", "cudnn", "flash"])
def test_the_order_of_attention_kernels_ends_with_its_block_and_leaves_one_that_takes_any_mask(choice: str) -> None:
    def enabled() -> tuple[bool, ...]:
        return cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled()

    before = enabled()
    with attention_order(choice):
        assert cuda.math_sdp_enabled()
        query = torch.randn(1, 2, 4, 8)
        mask = torch.ones(1, 1, 4, 4, dtype=torch.bool)
        assert nn.functional.scaled_dot_product_attention(query, query, query, attn_mask=mask).shape == query.shape
    assert enabled() == before


def test_plain_attention_of_one_model_is_not_that_of_all(tiny_bases: Any) -> None:
    from diffusers.models import attention_dispatch
    from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel

    active: Any = attention_dispatch._AttentionBackendRegistry  # pyright: ignore[reportPrivateUsage]
    before = active.get_active_backend()
    denoiser = FluxTransformer2DModel.from_pretrained(tiny_bases["flux1"] / "transformer")
    use_attention(denoiser, "math")
    assert active.get_active_backend() == before


@pytest.mark.setting("hardware.tf32")
@pytest.mark.parametrize(("tensor_cores", "precision"), [(True, "tf32"), (False, "ieee")])
def test_float32_is_computed_as_asked_and_as_before_after_it(tensor_cores: bool, precision: str) -> None:
    backends: Any = torch.backends
    parts = (backends.cuda.matmul, backends.cudnn.conv)
    before = [part.fp32_precision for part in parts]
    with float32_products(tensor_cores):
        assert [part.fp32_precision for part in parts] == [precision] * 2
    assert [part.fp32_precision for part in parts] == before


@pytest.mark.setting("hardware.compile")
@pytest.mark.parametrize(
    ("asked", "row_compiles", "missing", "swaps", "compiled"),
    [
        ("auto", False, None, False, False),
        ("auto", True, None, False, True),
        ("off", True, None, False, False),
        ("blocks", False, None, False, True),
        ("blocks", True, "the package triton is not installed", False, False),
        ("blocks", True, None, True, False),
    ],
)
def test_blocks_are_compiled_where_asked_for_and_possible(  # noqa: PLR0913 - a row of the table
    monkeypatch: pytest.MonkeyPatch, asked: str, row_compiles: bool, missing: str | None, swaps: bool, compiled: bool
) -> None:
    monkeypatch.setattr(kernels, "missing_for_compiling", lambda device: missing)
    assert compiles(replace(ROWS["h100"], compile=row_compiles), asked, swaps) is compiled


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.relu(self.linear(x))


@dataclass
class Graphs:
    """Counts the graphs that are compiled, and runs them as they are."""

    count: int = 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.count += 1
        return graph.forward


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_buckets_do_not_compile_without_end_and_results_stay() -> None:
    """Five sizes of three blocks of a kind: a graph for the first size, one for all others."""
    model = nn.Sequential(*(Block() for _ in range(3)))
    names, sizes = list(model.state_dict()), (16, 24, 32, 40, 48)
    expected = [model(torch.ones(1, size, 8)) for size in sizes]
    graphs = Graphs()
    compile_blocks(list(model), backend=graphs)
    with more_graphs():
        for _ in range(2):
            for size, before in zip(sizes, expected, strict=True):
                assert torch.equal(model(torch.ones(1, size, 8)), before)
    assert graphs.count <= 4, "first block: its input needs no gradient; the others: theirs does; two graphs each"
    assert list(model.state_dict()) == names
