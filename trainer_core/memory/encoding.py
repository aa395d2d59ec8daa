"""The most memory that the VAE and the text encoders need at once. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from trainer_core.families.family import Family
from trainer_core.memory import fakes


def latent_shape(family: Family, config: Mapping[str, Any], width: int, height: int) -> tuple[int, int, int]:
    """Return channels, height and width of the latents of a picture."""
    vae = fakes.hollow(family.spec, family.spec.vae, config, torch.float32)
    with fakes.fake_mode():
        fakes.fill(vae)
        channels, rows, columns = family.encode_latents(vae, torch.zeros(1, 3, height, width)).shape[1:]
    return channels, rows, columns


def encode_peak(
    family: Family, config: Mapping[str, Any], dtype: torch.dtype, size: tuple[int, int], count: int
) -> int:
    """Return the bytes beside the weights that encoding pictures needs.

    Args:
        family: whose `encode_latents` it is.
        config: of the VAE.
        dtype: of the VAE.
        size: (width, height) in pixels.
        count: pictures at once.
    """

    def work(vae: nn.Module) -> None:
        with torch.no_grad():
            family.encode_latents(vae, torch.zeros(count, 3, size[1], size[0]))

    return _peak(family, config, dtype, work)


def decode_peak(family: Family, config: Mapping[str, Any], dtype: torch.dtype, latents: tuple[int, int, int]) -> int:
    """Return the bytes beside the weights that decoding one picture needs.

    Args:
        family: whose VAE it is.
        config: of the VAE.
        dtype: of the VAE.
        latents: shape of the latents as `encode_latents` gives them.
    """
    built: Any = fakes.hollow(family.spec, family.spec.vae, config, dtype).config
    channels = int(built.get("latent_channels") or built.get("z_dim") or latents[0])
    # FLUX.2 folds 2x2 latents into channels.
    fold = round((latents[0] / channels) ** 0.5)
    shape: tuple[int, ...] = (1, channels, latents[1] * fold, latents[2] * fold)

    def work(vae: Any) -> None:
        videos = any(parameter.ndim == 5 for parameter in vae.parameters())
        frames = torch.zeros(shape, dtype=dtype)
        with torch.no_grad():
            vae.decode(frames[:, :, None] if videos else frames)

    return _peak(family, config, dtype, work)


def reading_peak(config: Mapping[str, Any], tokens: int, count: int, size: int) -> int:
    """Return the bytes beside the weights that a text encoder needs, by arithmetic.

    All hidden states are kept, as most families ask for them, and one layer is at work.

    Args:
        config: of the encoder.
        tokens: of a caption, pictures in it included.
        count: captions at once.
        size: bytes of a number.
    """
    inner = config.get("text_config") or config
    width = int(_first(inner, "hidden_size", "d_model"))
    layers = int(_first(inner, "num_hidden_layers", "num_layers"))
    wide = int(_first(inner, "intermediate_size", "d_ff"))
    return count * tokens * size * (width * (layers + 5) + 3 * wide)


def _first(config: Mapping[str, Any], *names: str) -> Any:
    return next(config[name] for name in names if config.get(name))


def _peak(family: Family, config: Mapping[str, Any], dtype: torch.dtype, work: Callable[[nn.Module], None]) -> int:
    vae = fakes.hollow(family.spec, family.spec.vae, config, dtype)
    with fakes.fake_mode():
        fakes.fill(vae)
        meter = fakes.metered(vae, 0)
        weights = meter.now
        with meter:
            work(vae)
    return meter.peak - weights


def encoders(family: Family, configs: Mapping[str, Any], dtype: torch.dtype) -> dict[str, int]:
    """Return text encoder -> bytes of its weights."""
    spec, found = family.spec, dict[str, int]()
    for name in spec.text_components:
        if spec.components[name].kind == "model" and name in configs:
            found[name] = fakes.nbytes(fakes.hollow(spec, name, configs[name], dtype))
    return found


def vae_weights(family: Family, config: Mapping[str, Any], dtype: torch.dtype) -> int:
    """Return the bytes of the VAE's weights."""
    return fakes.nbytes(fakes.hollow(family.spec, family.spec.vae, config, dtype))
