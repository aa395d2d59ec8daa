"""The pretraining data, drawn on the fly: pictures for the VAE, a latent bank for the UNet."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image, ImageDraw
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from demo.drawings import SUPERSAMPLING, Scene, draw, random_scene
from demo.fitting import write_atomically

BUCKETS: dict[tuple[int, int], float] = {(64, 64): 0.88, (48, 80): 0.06, (80, 48): 0.06}
"""Share of the drawings by (width, height) in pixels."""

DECODER_SIZES: dict[tuple[int, int], float] = {(32, 32): 0.5, (64, 64): 0.4, (48, 80): 0.1}
"""Share of the decoder's steps by (width, height): small pictures are full of edges, so teach more."""

DOODLE_SHARE = 0.35

COMPARED_DRAWINGS = 32
"""Drawings of each bucket whose pixels tell whether a stored bank is still what would be drawn: each shape is there."""


def to_pixels(pictures: Sequence[Image.Image]) -> Tensor:
    """RGB pictures of one size to float32 (B, 3, H, W) in [-1, 1]."""
    stacked = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def picture_batch(seed: int, step: int, size: int) -> Tensor:
    """Pixels for one step of the decoder, as many as `size` pictures of 64 x 64 hold; half are doodles."""
    rng = Random(f"pictures {seed} {step}")
    width, height = rng.choices(list(DECODER_SIZES), list(DECODER_SIZES.values()))[0]
    makers = rng.choices((doodle, _scene), (DOODLE_SHARE, 1 - DOODLE_SHARE), k=size * 4096 // (width * height))
    return to_pixels([make(rng, width, height) for make in makers])


def _scene(rng: Random, width: int, height: int) -> Image.Image:
    return draw(random_scene(rng), width, height)


def doodle(rng: Random, width: int, height: int) -> Image.Image:
    """Random patches, lines, dots and stripes in any colour.

    The VAE must be able to show what the UNet has never drawn, or no LoRA could teach it.
    """
    big = (width * SUPERSAMPLING, height * SUPERSAMPLING)
    picture = Image.new("RGB", big, _any_colour(rng))
    pen = ImageDraw.Draw(picture)
    for _ in range(rng.randint(2, 9)):
        rng.choice((_patch, _line, _dot, _stripes))(pen, rng, big)
    return picture.reduce(SUPERSAMPLING)


def _any_colour(rng: Random) -> tuple[int, int, int]:
    if rng.random() < 0.2:
        return rng.choice(((0, 0, 0), (255, 255, 255)))
    return (rng.randint(0, 255), rng.randint(0, 255), rng.randint(0, 255))


def _point(rng: Random, size: tuple[int, int]) -> tuple[float, float]:
    return rng.uniform(0, size[0]), rng.uniform(0, size[1])


def _patch(pen: ImageDraw.ImageDraw, rng: Random, size: tuple[int, int]) -> None:
    corners = [_point(rng, size) for _ in range(rng.randint(3, 6))]
    pen.polygon(corners, fill=_any_colour(rng))


def _line(pen: ImageDraw.ImageDraw, rng: Random, size: tuple[int, int]) -> None:
    ends = [_point(rng, size), _point(rng, size)]
    pen.line(ends, fill=_any_colour(rng), width=SUPERSAMPLING * rng.randint(1, 5))


def _dot(pen: ImageDraw.ImageDraw, rng: Random, size: tuple[int, int]) -> None:
    (x, y), radius = _point(rng, size), SUPERSAMPLING * rng.uniform(1.0, 14.0)
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_any_colour(rng))


def _stripes(pen: ImageDraw.ImageDraw, rng: Random, size: tuple[int, int]) -> None:
    (x, y), colour = _point(rng, size), _any_colour(rng)
    step = SUPERSAMPLING * rng.uniform(3.0, 8.0)
    length = rng.uniform(0.2, 0.6) * min(size)
    for i in range(rng.randint(2, 6)):
        top = y + i * step
        pen.rectangle((x, top, x + length, top + step / 2), fill=colour)


@dataclass(frozen=True)
class LatentBank:
    """Drawings of the training stream, encoded once.

    `latents` are the posterior means (N, 12, h, w), float16, unscaled; `scale` is the VAE's
    `scaling_factor`.
    """

    scenes: dict[tuple[int, int], list[Scene]]
    latents: dict[tuple[int, int], Tensor]
    scale: float

    def batch(self, rng: Random, size: int) -> tuple[list[Scene], Tensor]:
        """Scenes and scaled float32 latents (B, 12, h, w) of one bucket."""
        bucket = rng.choices(list(BUCKETS), list(BUCKETS.values()))[0]
        rows = [rng.randrange(len(self.scenes[bucket])) for _ in range(size)]
        scenes = [self.scenes[bucket][row] for row in rows]
        return scenes, self.latents[bucket][rows].float() * self.scale


def bank_scenes(seed: int, size: int) -> dict[tuple[int, int], list[Scene]]:
    """The scenes of a bank of about `size` drawings, by bucket."""
    return {
        bucket: [random_scene(rng) for _ in range(round(share * size))]
        for bucket, share in BUCKETS.items()
        for rng in [Random(f"bank {seed} {bucket}")]
    }


def build_bank(vae: AutoencoderKL, seed: int, size: int, file: Path) -> LatentBank:
    """Encode a bank, or read it from `file` if it holds the same scenes, drawn and encoded in the same way."""
    scenes = bank_scenes(seed, size)
    recipe = _recipe(vae, scenes)
    if file.exists() and (stored := _read_latents(file, recipe)) is not None:
        return LatentBank(scenes, stored, vae.config.scaling_factor)
    latents = {bucket: _encode(vae, drawn, bucket) for bucket, drawn in scenes.items()}
    tensors = {f"{w}x{h}": tensor for (w, h), tensor in latents.items()}
    write_atomically(file, save(tensors, {"recipe": recipe}))
    return LatentBank(scenes, latents, vae.config.scaling_factor)


def _recipe(vae: AutoencoderKL, scenes: dict[tuple[int, int], list[Scene]]) -> str:
    """Digests of what decides a bank: every scene, the pixels of some drawings, and the weights that encode them."""
    some = [(scene, bucket) for bucket, drawn in scenes.items() for scene in drawn[:COMPARED_DRAWINGS]]
    pixels = b"".join(draw(scene, *bucket).tobytes() for scene, bucket in some)
    encoder = {name: value for name, value in vae.state_dict().items() if name.startswith(("encoder.", "quant_conv."))}
    parts = {"scenes": repr(scenes).encode(), "pixels": pixels, "encoder": save(encoder)}
    return json.dumps({name: hashlib.sha256(part).hexdigest() for name, part in parts.items()})


def _read_latents(file: Path, recipe: str) -> dict[tuple[int, int], Tensor] | None:
    with safe_open(file, "pt") as stored:
        if stored.metadata()["recipe"] != recipe:
            return None
        return {(w, h): stored.get_tensor(f"{w}x{h}") for w, h in BUCKETS}


@torch.no_grad()
def _encode(vae: AutoencoderKL, scenes: list[Scene], bucket: tuple[int, int]) -> Tensor:
    vae.eval()
    parts: list[Tensor] = []
    for start in range(0, len(scenes), 64):
        pixels = to_pixels([draw(scene, *bucket) for scene in scenes[start : start + 64]])
        mean = vae.encode(pixels.to(vae.device)).latent_dist.mode()
        parts.append(mean.half().cpu().contiguous())
    return torch.cat(parts).contiguous()
