"""A training step on a CUDA device: no waiting, swapped blocks beside the work, memory that runs out for real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.projects import make_project
from tests.unit.hardware.test_streaming import Block
from trainer_core.hardware.kernel_scope import attention_order
from trainer_core.hardware.streaming import CudaCopier, swap_blocks
from trainer_core.train import step

pytestmark = pytest.mark.gpu


def test_a_step_never_waits_for_the_gpu(
    tiny_bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Any = step._gradients  # pyright: ignore[reportPrivateUsage]

    def watched(*arguments: Any) -> Any:
        torch.cuda.set_sync_debug_mode("error")
        try:
            return real(*arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(step, "_gradients", watched)
    project = make_project(tmp_path / "project", tiny_bases["flux1"], "flux1")
    project.run("train.precision=bf16", "adapter.rank_dropout=0.1", until="lora_checkpoint")


def test_swapped_blocks_give_the_same_gradients_and_need_less_memory() -> None:
    device = torch.device("cuda")

    def gradients(model: nn.ModuleList, x: Tensor) -> list[Tensor]:
        model.zero_grad()
        torch.cuda.reset_peak_memory_stats()
        y = x
        for block in model:
            y: Tensor = checkpoint(block, y, use_reentrant=False)  # type: ignore[no-redef]
        y.square().mean().backward()
        return [one.grad.clone() for one in model.parameters() if one.grad is not None]

    model = nn.ModuleList(Block(1024, 4096) for _ in range(12)).to(device)
    x = torch.randn(256, 1024, device=device, generator=torch.Generator(device).manual_seed(1))
    expected = gradients(model, x)
    before = torch.cuda.max_memory_allocated()
    stream = swap_blocks(list(model), 12, device, CudaCopier(device))
    for _ in range(3):
        assert all(torch.equal(one, other) for one, other in zip(gradients(model, x), expected, strict=True))
    assert torch.cuda.max_memory_allocated() < before - stream.nbytes // 2


def test_a_step_that_does_not_fit_is_done_again_with_less(tiny_bases: dict[str, Path], tmp_path: Path) -> None:
    """The limit lies below what the step of a batch of 64 needs and above what one of 1 needs."""
    project = make_project(tmp_path / "project", tiny_bases["sd15"])
    share = (torch.cuda.memory_allocated() + 256 * 2**20) / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(share)
    try:
        result = project.run("train.batch_size=64", "datasets.0.repeats=64", until="lora_checkpoint")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert result["lora_checkpoint"].published.metadata["rungs"]


@pytest.mark.parametrize("choice", ["cudnn", "flash"])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_kernels_agree(choice: str, masked: bool) -> None:
    generator = torch.Generator("cuda").manual_seed(1)
    query, key, value = (
        torch.randn(2, 8, 256, 64, device="cuda", dtype=torch.bfloat16, generator=generator) for _ in range(3)
    )
    mask = torch.ones(2, 1, 1, 256, dtype=torch.bool, device="cuda") if masked else None
    plain = nn.functional.scaled_dot_product_attention(query.float(), key.float(), value.float(), attn_mask=mask)
    with attention_order(choice):
        found = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    torch.testing.assert_close(found.float(), plain, rtol=2e-2, atol=2e-2)
