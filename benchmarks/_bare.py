"""The loop to beat: plain PyTorch and PEFT on the same UNet, everything preloaded, nothing else in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from trainer_core.config.groups import AdapterConfig, OptimizerConfig

Step = Callable[[], object]


@dataclass(frozen=True)
class Choice:
    """How the UNet computes."""

    precision: Literal["fp32", "bf16"]
    attention: Literal["sdpa", "math"]
    channels_last: bool

    def __str__(self) -> str:
        """The choice in words."""
        return f"{self.precision} {self.attention}{' channels_last' if self.channels_last else ''}"


@dataclass(frozen=True)
class Preloaded:
    """Training data as two tensors: latents [N, 4, h, w] float32 and text embeddings [N, 77, D]."""

    latents: Tensor
    text: Tensor
    alphas_cumprod: Tensor
    batch_size: int


def bare_step(unet: Path, choice: Choice, data: Preloaded, adapter: AdapterConfig, optimizer: OptimizerConfig) -> Step:
    """Load the UNet, attach LoRA, and return a function that trains one step."""
    import torch
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import AttnProcessor
    from peft import LoraConfig

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[choice.precision]
    model = UNet2DConditionModel.from_pretrained(unet, torch_dtype=dtype, local_files_only=True)
    model.requires_grad_(False)
    if choice.channels_last:
        model.to(memory_format=torch.channels_last)
    if choice.attention == "math":
        model.set_attn_processor(AttnProcessor())
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    model.add_adapter(LoraConfig(r=adapter.rank, lora_alpha=adapter.alpha, target_modules=targets))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.data = parameter.data.float()
    model.train()
    adamw = torch.optim.AdamW(parameters, lr=optimizer.lr, weight_decay=optimizer.weight_decay, fused=True)
    text, size, position = data.text.to(dtype), data.batch_size, 0
    signal, spread = data.alphas_cumprod.sqrt(), (1 - data.alphas_cumprod).sqrt()

    def step() -> Tensor:
        nonlocal position
        chosen = torch.arange(position, position + size) % len(data.latents)
        position += size
        latents, noise = data.latents[chosen], torch.randn(size, *data.latents.shape[1:])
        times = torch.randint(0, len(signal), (size,))
        noisy = signal[times].view(-1, 1, 1, 1) * latents + spread[times].view(-1, 1, 1, 1) * noise
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            prediction = model(noisy.to(dtype), times, encoder_hidden_states=text[chosen], return_dict=False)[0]
        loss = torch.nn.functional.mse_loss(prediction.float(), noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, optimizer.max_grad_norm)
        adamw.step()
        adamw.zero_grad()
        return loss

    return step
