"""The VAE's encoder, computed instead of trained: the principal components of patches of 4 x 4 pixels.

`AutoencoderKL` is made of convolutions, norms and SiLUs, and yet it can be exactly linear. Two convolutions of
stride 2 gather the 48 values of a patch into its principal components; residual blocks whose second convolution is
zero pass them on; each component s stands beside -s and two constants so large that the group norm is a scale; and
silu(s) - silu(-s) = s.
"""

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from demo.base_model import LATENTS

WHITENING = 0.6
"""0 keeps the components' own deviations, 1 makes them alike. Small ones matter to the eye."""
ANCHOR = 32.0
"""The constants beside the components, against which these are small."""
NO_SPREAD = -30.0
"""Log variance of the posterior: its sample is its mode."""


@torch.no_grad()
def compute_encoder(vae: AutoencoderKL, pixels: Tensor) -> None:
    """Set encoder, `scaling_factor` and the decoder's first convolution by pictures (B, 3, H, W) in [-1, 1]."""
    patches = to_patches(pixels).double()
    mean = patches.mean(0)
    covariance = (patches - mean).T @ (patches - mean) / len(patches)
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors = values.flip(0)[:LATENTS], vectors.flip(1)[:, :LATENTS]
    vectors = vectors * vectors[vectors.abs().argmax(0), torch.arange(LATENTS)].sign()
    gain = values.sqrt() ** -WHITENING
    deviation = float((values * gain**2).mean().sqrt())
    project = (vectors * gain).T / deviation
    _write(vae, project.float(), (project @ mean).float())
    vae.register_to_config(scaling_factor=1.0)


def to_patches(pixels: Tensor) -> Tensor:
    """Pixels (B, 3, H, W) to patches (B * H/4 * W/4, 48), in the order in which two convolutions gather them."""
    twice = F.pixel_unshuffle(F.pixel_unshuffle(pixels, 2), 2)
    return twice.permute(0, 2, 3, 1).reshape(-1, twice.shape[1])


def _write(vae: AutoencoderKL, project: Tensor, offset: Tensor) -> None:
    """Write the encoder whose mode is `project` (12, 48) of a patch minus `offset` (12,)."""
    encoder = vae.encoder
    for parameter in encoder.parameters():
        parameter.zero_()
    for channel in range(3):
        encoder.conv_in.weight[channel, channel, 1, 1] = 1.0
    first, second, last = encoder.down_blocks
    # a patch of 2 x 2: channel 4 c + 2 row + column
    for i in range(12):
        first.downsamplers[0].conv.weight[i, i // 4, i // 2 % 2, i % 2] = 1.0
        second.resnets[0].conv_shortcut.weight[i, i] = 1.0
    patches = project.view(LATENTS, 12, 2, 2)
    second.downsamplers[0].conv.weight[:LATENTS, :12, :2, :2] = patches
    second.downsamplers[0].conv.bias[:LATENTS] = -offset
    _pair(last.resnets[0].conv_shortcut, encoder.conv_norm_out, encoder.conv_out)
    encoder.conv_out.bias[LATENTS:] = NO_SPREAD
    assert vae.quant_conv is not None
    vae.quant_conv.weight.copy_(torch.eye(2 * LATENTS)[..., None, None])
    vae.quant_conv.bias.zero_()


def _pair(spread: torch.nn.Conv2d, norm: torch.nn.GroupNorm, gather: torch.nn.Conv2d) -> None:
    """Carry each component as s and -s, two components and four constants a group of eight channels."""
    for i in range(LATENTS):
        at = 8 * (i // 2) + 2 * (i % 2)
        spread.weight[at, i], spread.weight[at + 1, i] = 1.0, -1.0
        gather.weight[i, at, 1, 1], gather.weight[i, at + 1, 1, 1] = 1.0, -1.0
    for group in range(norm.num_groups):
        spread.bias[8 * group + 4 : 8 * group + 8] = torch.tensor([ANCHOR, -ANCHOR, ANCHOR, -ANCHOR])
    # half of a group's channels are anchors: its deviation is the anchor over the root of two
    norm.weight.fill_(ANCHOR / 2**0.5)
