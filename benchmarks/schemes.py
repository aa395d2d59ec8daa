"""How near quantised bases are to dense ones, and why `int8` has one scale a row: figures of docs/quantised-bases.md.

    python -m benchmarks.schemes

Runs on the CPU. The first table is of a whole denoiser (a small FLUX.1 with random weights, a LoRA on its attention),
the second of one layer of the size of FLUX.1's, beside bitsandbytes' int8.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer_core.families import get_family
from trainer_core.families.storage.quantised_linear import CODECS, QuantisedLinear
from trainer_core.families.storage.replace import quantise
from trainer_core.families.storage.schemes import SCHEMES, Storage
from trainer_core.hardware.meter import Meter

WIDE = 1536
CONFIG: Mapping[str, Any] = {
    "num_layers": 3,
    "num_single_layers": 3,
    "attention_head_dim": 32,
    "num_attention_heads": 8,
    "joint_attention_dim": 128,
    "pooled_projection_dim": 64,
    "in_channels": 64,
    "axes_dims_rope": (8, 12, 12),
}


def small_flux() -> Any:
    """Return a small FLUX.1 with normally distributed weights."""
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(0)
    model = FluxTransformer2DModel(**CONFIG)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    return model.requires_grad_(False)


def run(model: Any) -> tuple[Tensor, Tensor]:
    """Return a prediction, and the gradient of a LoRA whose weights are the same for every model."""
    from peft import LoraConfig

    model.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=r".*attn\.(to_[qkv])", init_lora_weights=False))
    trained = [(name, one) for name, one in model.named_parameters() if one.requires_grad]
    generator = torch.Generator().manual_seed(1)
    for _, one in sorted(trained):
        one.data = torch.randn(one.shape, generator=generator) * 0.02
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    output = model(
        hidden_states=draw(2, 64, 64),
        encoder_hidden_states=draw(2, 16, 128),
        pooled_projections=draw(2, 64),
        timestep=torch.tensor([0.3, 0.8]),
        img_ids=torch.zeros(64, 3),
        txt_ids=torch.zeros(16, 3),
        return_dict=False,
    )[0]
    (output - draw(*output.shape)).square().mean().backward()
    return output.detach(), torch.cat([one.grad.flatten() for _, one in sorted(trained)])


def of_a_denoiser() -> None:
    """Print error and gradient of every scheme."""
    wanted, gradient = run(small_flux())
    layers = get_family("flux1").spec.stored_layers
    print("| scheme | error of the prediction | cosine of the LoRA's gradients |\n|---|---|---|")
    for name in SCHEMES:
        for compute in ("dense", "w8a8") if SCHEMES[name].matmul else ("dense",):
            output, own = run(quantise(small_flux(), layers, Storage(name, compute=compute)))  # type: ignore[arg-type]
            error = float((output - wanted).norm() / wanted.norm())
            cosine = float(functional.cosine_similarity(own, gradient, dim=0))
            print(
                f"| {name}{', 8-bit matmuls' if compute == 'w8a8' else ''} | {error:.2%} | {cosine:.5f} |", flush=True
            )


def of_a_layer() -> None:
    """Print error, time and memory traffic of int8 with a scale a row and of bitsandbytes' int8."""
    import bitsandbytes

    torch.manual_seed(0)
    dense = nn.Linear(WIDE, WIDE, bias=False).requires_grad_(False)
    x = torch.randn(1024, WIDE)
    x[:, 7] *= 60  # a channel as large as those that denoisers have
    own = QuantisedLinear(WIDE, WIDE, "int8")
    own.give(CODECS["int8"].encode(dense.weight))
    theirs = bitsandbytes.nn.Linear8bitLt(WIDE, WIDE, bias=False, has_fp16_weights=False, threshold=6.0)
    theirs.weight = bitsandbytes.nn.Int8Params(dense.weight.data.clone(), requires_grad=False, has_fp16_weights=False)
    theirs = theirs.to("cpu")
    layers: Mapping[str, Callable[[Tensor], Tensor]] = {"dense": dense, "a scale a row": own, "bitsandbytes": theirs}
    print("| layer | error | gradient's error | seconds a pass | peak, MiB |\n|---|---|---|---|---|")
    wanted = _passed(dense, x)
    for name, layer in layers.items():
        for dtype in (torch.float32, torch.bfloat16):
            if layer is dense:
                dense.to(dtype)
            given = x.to(dtype)
            with Meter() as meter:
                found = _passed(layer, given)
            begin = time.perf_counter()
            for _ in range(3):
                _passed(layer, given)
            seconds = (time.perf_counter() - begin) / 3
            errors = [f"{_error(one, other):.2%}" for one, other in zip(found, wanted, strict=True)]
            figures = (*errors, f"{seconds:.3f}", f"{meter.peak / 2**20:.1f}")
            print(f"| {name}, {str(dtype)[6:]} | {' | '.join(figures)} |", flush=True)


def _passed(layer: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the output and the gradient of the input."""
    given = x.clone().requires_grad_()
    output = layer(given)
    pattern = torch.linspace(-1, 1, output.numel()).reshape(output.shape).to(output.dtype)
    (gradient,) = torch.autograd.grad(output, given, pattern)
    return output.detach(), gradient


def _error(found: Tensor, wanted: Tensor) -> float:
    return float((found.detach().float() - wanted).norm() / wanted.norm())


if __name__ == "__main__":
    of_a_denoiser()
    of_a_layer()
