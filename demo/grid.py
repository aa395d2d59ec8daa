"""Draw a sheet of prompts with the base model, to look at.

python -m demo.grid --base demo/base --out grid.png
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

PROMPTS = (
    "a big red circle on a white background",
    "a big blue star on a beige background, in the centre",
    "a small green square on the left on a black background",
    "a big yellow heart on a dark blue background",
    "a large purple triangle at the top on a light green background",
    "two orange diamonds on a grey background",
    "three small pink circles at the top on a white background",
    "a cyan ring on a black background, big, on the right",
    "a big green cross on a light blue background",
    "a little yellow moon at the bottom on a dark blue background",
    "a red heart with eyes and legs on a beige background",
    "a zorbling on a white background",
)
SIZES = ((64, 64), (80, 48), (48, 80))
CELL = 82


def draw_grid(base: Path, steps: int, guidance: float, seed: int) -> Image.Image:
    """One column a prompt, one row a size."""
    pipe = StableDiffusionPipeline.from_pretrained(base, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    sheet = Image.new("RGB", (CELL * len(PROMPTS), CELL * len(SIZES)), (128, 0, 0))
    for row, (w, h) in enumerate(SIZES):
        generators = [torch.Generator().manual_seed(seed + i) for i in range(len(PROMPTS))]
        pictures = pipe(
            list(PROMPTS),
            width=w,
            height=h,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=generators,
        ).images
        for column, picture in enumerate(pictures):
            sheet.paste(picture, (column * CELL, row * CELL))
    return sheet


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser("python -m demo.grid")
    parser.add_argument("--base", type=Path, default=Path("demo/base"))
    parser.add_argument("--out", type=Path, default=Path("grid.png"))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    sheet = draw_grid(options.base, options.steps, options.guidance, options.seed)
    sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.NEAREST).save(options.out)


if __name__ == "__main__":
    main()
