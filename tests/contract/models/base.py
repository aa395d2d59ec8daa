"""What the contract tests ask of a model: diffusers' own maths for it, written without our code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor, nn

from trainer_core.types import Conditioning, TextCondition

Controls = Sequence[Sequence[Image.Image]]
"""Control pictures of each caption."""


def stock_pipeline(folder: Path) -> Any:
    """Load a pipeline as a user of diffusers does."""
    from diffusers import DiffusionPipeline

    return frozen(DiffusionPipeline.from_pretrained(folder))


def frozen(pipe: Any) -> Any:
    """Freeze the models of a pipeline, as ours are: torch sums in another order in layers whose weights could learn."""
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.requires_grad_(False)
    return pipe


def posterior_mode(pipe: Any, images: Tensor) -> Tensor:
    """Encode pixels [B, 3, H, W] by an AutoencoderKL and normalise by its config."""
    config = pipe.vae.config
    return (pipe.vae.encode(images).latent_dist.mode() - (config.shift_factor or 0.0)) * config.scaling_factor


def as_they_are(pipe: Any, tensor: Tensor) -> Tensor:
    """Latents that the denoiser takes as [B, C, h, w]."""
    return tensor


def no_controls(pipe: Any, call: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """Control latents of a denoiser that takes none."""
    return ()


def sigma_of_step(pipe: Any, step: int) -> Tensor:
    """Share of noise of the latents that the pipeline gives its denoiser at a step."""
    return pipe.scheduler.sigmas[step]


def unchanged_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """A denoiser call that the family makes in the very same words."""
    return dict(call)


def without_pads(call: Mapping[str, Any]) -> dict[str, Any]:
    """A denoiser call with captions cut to the longest, zeros in place of pads, and a bool mask."""
    length = int(call["encoder_attention_mask"].sum(dim=1).max())
    mask = call["encoder_attention_mask"][:, :length].bool()
    embeds = call["encoder_hidden_states"][:, :length] * mask[..., None]
    return {**call, "encoder_hidden_states": embeds, "encoder_attention_mask": mask}


def as_text(pipe: Any, captions: Sequence[str], controls: Controls) -> Mapping[str, Any]:
    """Prompts that the pipeline encodes itself, with the control pictures of the first."""
    prompt = list(captions) if len(captions) > 1 else captions[0]
    if not controls or not controls[0]:
        return {"prompt": prompt}
    return {"prompt": prompt, "image": list(controls[0]) if len(controls[0]) > 1 else controls[0][0]}


@dataclass(frozen=True)
class Model:
    """A family's model, or a variant of it, as diffusers has it."""

    family: str
    build: Callable[[Path], Path]
    """Save a tiny pipeline in a folder."""
    text: Callable[[Any, Sequence[str], Controls], list[TextCondition]]
    """(pipe, captions, controls) -> what `encode_prompt` gives, a condition a caption, without batch axis."""
    predict: Callable[[Any, Tensor, Tensor, TextCondition, Conditioning], Tensor]
    """(pipe, noisy [B, C, h, w], timesteps as ours, the reference's text batched, geometries and control latents) ->
    prediction [B, C, h, w] with our sign."""
    pipeline: Callable[[Path], Any] = stock_pipeline
    latents: Callable[[Any, Tensor], Tensor] = posterior_mode
    """(pipe, pixels [B, 3, H, W]) -> normalised latents [B, C, h, w]."""
    unpack: Callable[[Any, Tensor], Tensor] = as_they_are
    """(pipe, latents as the pipeline's loop holds them) -> [B, C, h, w]."""
    controls_of: Callable[[Any, Mapping[str, Any]], tuple[Tensor, ...]] = no_controls
    """(pipe, arguments of a denoiser call by name) -> control latents in it, [B, C, h, w] each."""
    names: Mapping[str, str] = field(default_factory=dict[str, str])
    """What the denoiser calls an argument -> what most call it: `hidden_states` or `timestep`."""
    as_ours: Callable[[Mapping[str, Any]], dict[str, Any]] = unchanged_call
    """Arguments of the pipeline's denoiser call by name -> how the family says the same, where it leaves out pads."""
    sigma: Callable[[Any, int], Tensor] = sigma_of_step
    """(pipe, step) -> share of noise, for flow families."""
    inputs: Callable[[Any, Sequence[str], Controls], Mapping[str, Any]] = as_text
    """(pipe, captions, controls) -> the arguments of the pipeline's call that say what to render."""
    call: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Further arguments of the pipeline's call."""
    captions: int = 2
    """How many captions the pipeline takes at once."""
    controls: int = 0
    """Control pictures a caption in these tests."""

    def usual(self, call: Mapping[str, Any]) -> dict[str, Any]:
        """Rename the arguments of a denoiser call."""
        return {self.names.get(name, name): value for name, value in call.items()}
