"""Examine pictures: how much of what a prompt asks for is in them, told by `demo.judge`.

`score` examines one picture and is what the setting `gate.judge: ../demo/exam.py` uses. The command
line examines a base model, and a LoRA on it, over scenes that the base model was never trained on.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
from PIL import Image

from demo import make_dataset
from demo.captions import COUNT_WORDS, POSITION_WORDS, SIZE_WORDS, caption, plural
from demo.drawings import BACKGROUNDS, COLOURS, SHAPES, Scene, draw, held_out_combinations, random_scene
from demo.judge import confusion_table, is_zorbling, judge

TRAITS = ("colour", "shape", "background", "count", "place", "size")

ZORBLING = re.compile(r"\bzorblings?\b")
OPENING = re.compile(r"^an? (drawing|picture) of ")
GROUND = re.compile(r"\b((?:on|with) )?(an? )?(?P<name>((light|dark) )?[a-z]+) background\b")
"""A background, with the words that lead to it: its colour is not the shape's, its `a` not a number."""

SHAPE_WORDS = {shape: shape for shape in SHAPES} | {plural(shape): shape for shape in SHAPES}
SIZES = {word: size for size, words in SIZE_WORDS.items() for word in words if word}
PLACES = {name: re.compile(rf"\b({'|'.join(filter(None, words))})\b") for name, words in POSITION_WORDS.items()}
CREATURE_WORDS = {"eyes", "legs"}
NUMBERS = {"one": 1} | {word: count for count, word in COUNT_WORDS.items()}
ARTICLES = {"a": 1, "an": 1}

SIDE, PICTURES_A_BATCH = 64, 20
"""Pixels of a picture's sides, and how many pictures are painted at once."""
ZORBLING_SEEDS = 12
"""Pictures of each prompt of :mod:`demo.make_dataset`."""


@dataclass(frozen=True)
class Wanted:
    """What a prompt asks for; `None` is what it does not name."""

    colour: str | None
    shape: str | None
    background: str | None
    count: int | None
    place: str | None = None
    size: str | None = None


@dataclass(frozen=True)
class Result:
    """How a set of pictures was judged: (right, asked for) by trait, and (wanted, seen) shapes."""

    name: str
    right: dict[str, tuple[int, int]]
    shapes: list[tuple[str, str | None]]
    zorblings: float | None = None


def score(picture: Image.Image, prompt: str) -> float:
    """How much of what a prompt asks for is in a picture, 0..1.

    A prompt with the word `zorbling` asks for a zorbling and nothing else: 0 or 1. Of any other, it is
    the share of the traits it names (colour, shape, background, count, place, size) that the judge finds.

    Raises:
        ValueError: The prompt names nothing that can be judged, two colours or shapes, or eyes and legs.
    """
    if ZORBLING.search(_plain(prompt)):
        return float(is_zorbling(picture))
    wanted = parse(prompt)
    named = [trait for trait in TRAITS if getattr(wanted, trait) is not None]
    if not named:
        raise ValueError(
            f"prompt {prompt!r} names nothing that can be judged. Wanted: the word zorbling; or a shape "
            f"({', '.join(SHAPES)}), a colour ({', '.join(COLOURS)}), a number (a, one, two, three), "
            f"a size (small, big), a place (at the top, on the left) or a background ({', '.join(BACKGROUNDS)}), "
            "as in 'two red stars on a white background'."
        )
    seen = judge(picture)
    return sum(getattr(seen, trait) == getattr(wanted, trait) for trait in named) / len(named)


def parse(prompt: str) -> Wanted:
    """Read a prompt as :mod:`demo.captions` writes them; other words, and other backgrounds, ask for nothing.

    Raises:
        ValueError: Two colours, shapes, backgrounds, places or sizes, where a judged picture has one of each; or eyes
            and legs, which are judged in a zorbling alone.
    """
    text = OPENING.sub("", _plain(prompt))
    words = GROUND.sub(" ", text).split()
    if CREATURE_WORDS & set(words):
        raise ValueError(
            f"prompt {prompt!r} asks for eyes or legs, which are judged in a zorbling alone: leave them out."
        )
    return Wanted(
        colour=_only([word for word in words if word in COLOURS], prompt),
        shape=_only([SHAPE_WORDS[word] for word in words if word in SHAPE_WORDS], prompt),
        background=_only([m["name"] for m in GROUND.finditer(text) if m["name"] in BACKGROUNDS], prompt),
        count=_count(words),
        place=_only([name for name, pattern in PLACES.items() if pattern.search(text)], prompt),
        size=_only([SIZES[word] for word in words if word in SIZES], prompt),
    )


def _plain(prompt: str) -> str:
    """The words alone, in small letters."""
    return " ".join(re.findall("[a-z]+", prompt.lower()))


def _only(names: list[str], prompt: str) -> str | None:
    if len(set(names)) > 1:
        raise ValueError(
            f"prompt {prompt!r} names {' and '.join(dict.fromkeys(names))}; a picture is judged as things of one "
            "shape and one colour on one background: name one of each."
        )
    return names[0] if names else None


def _count(words: list[str]) -> int | None:
    """The last number before the shape; an article is one only where a shape follows."""
    end = next((i for i, word in enumerate(words) if word in SHAPE_WORDS), None)
    numbers = NUMBERS if end is None else NUMBERS | ARTICLES
    return next((numbers[word] for word in reversed(words[:end]) if word in numbers), None)


def held_out_prompts(count: int = 200, seed: int = 0) -> list[tuple[Scene, str]]:
    """Scenes of combinations that training never shows, each with a caption; always the same for a seed.

    Every combination comes equally often, or nearly; all else is distributed as in training.
    """
    rng = Random(f"exam {seed}")
    combinations = list(held_out_combinations())
    rng.shuffle(combinations)
    pairs: list[tuple[Scene, str]] = []
    for i in range(count):
        shape, colour, background = combinations[i % len(combinations)]
        scene = replace(random_scene(rng), shape=shape, colour=colour, background=background, creature=False)
        pairs.append((scene, caption(scene, rng)))
    return pairs


def examine(name: str, pairs: Sequence[tuple[Scene, str]], pictures: Sequence[Image.Image]) -> Result:
    """Judge a picture of each scene by what its prompt names."""
    judged = [(parse(prompt), judge(picture)) for (_, prompt), picture in zip(pairs, pictures, strict=True)]
    right: dict[str, tuple[int, int]] = {}
    for trait in TRAITS:
        named = [(getattr(w, trait), getattr(v, trait)) for w, v in judged if getattr(w, trait) is not None]
        right[trait] = sum(wanted == seen for wanted, seen in named), len(named)
    return Result(
        name, right, [(scene.shape, verdict.shape) for (scene, _), (_, verdict) in zip(pairs, judged, strict=True)]
    )


def examine_pipeline(
    pipeline: Any, options: argparse.Namespace, name: str, pairs: Sequence[tuple[Scene, str]]
) -> Result:
    """Paint and judge every prompt, and with a LoRA to compare with, zorblings too."""
    pictures = list(paint(pipeline, options, name, [prompt for _, prompt in pairs]))
    result = examine(name, pairs, pictures)
    if options.lora is None:
        return result
    prompts = [prompt for prompt in make_dataset.PROMPTS for _ in range(ZORBLING_SEEDS)]
    found = [is_zorbling(picture) for picture in paint(pipeline, options, f"{name}, zorblings", prompts)]
    return replace(result, zorblings=sum(found) / len(found))


def paint(pipeline: Any, options: argparse.Namespace, name: str, prompts: Sequence[str]) -> Iterator[Image.Image]:
    """A picture of each prompt; the noise of a picture depends on its place in the list alone."""
    import torch

    for start in range(0, len(prompts), PICTURES_A_BATCH):
        print(f"{name}: {start} of {len(prompts)} pictures", file=sys.stderr, flush=True)
        batch = list(prompts[start : start + PICTURES_A_BATCH])
        yield from pipeline(
            batch,
            width=SIDE,
            height=SIDE,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance,
            generator=[torch.Generator().manual_seed(start + i) for i in range(len(batch))],
        ).images


def run(options: argparse.Namespace) -> list[Result]:
    """Examine the drawings of the scenes, the base model's pictures, and the LoRA's if there is one."""
    # The gate imports this file for `score` alone, which needs neither.
    import torch
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    torch.set_num_threads(options.threads)
    pairs = held_out_prompts(options.prompts)
    results = [examine("drawings", pairs, [draw(scene, SIDE, SIDE) for scene, _ in pairs])]
    pipeline: Any = StableDiffusionPipeline.from_pretrained(options.base, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    results.append(examine_pipeline(pipeline, options, "base", pairs))
    if options.lora is not None:
        pipeline.load_lora_weights(str(options.lora.parent), weight_name=options.lora.name)
        if not pipeline.get_active_adapters():
            raise SystemExit(f"{options.lora}: diffusers loaded no weights from this file. Export it again.")
        results.append(examine_pipeline(pipeline, options, "LoRA", pairs))
    return results


def report(results: Sequence[Result]) -> str:
    """All results as Markdown: how many were right of those asked for, then what each shape was taken for."""
    table = pd.DataFrame(
        [
            {"pictures": r.name}
            | {trait: f"{right} of {asked} ({right / max(asked, 1):.1%})" for trait, (right, asked) in r.right.items()}
            | {"zorblings": None if r.zorblings is None else f"{r.zorblings:.1%}"}
            for r in results
        ],
        dtype=object,
    ).set_index("pictures")
    text = to_markdown(table.dropna(axis="columns", how="all").fillna(""))
    for result in results:
        text += f"\nShapes of {result.name}:\n\n{to_markdown(confusion_table(result.shapes))}"
    return text


def to_markdown(table: pd.DataFrame) -> str:
    """A table with its index as the first column; zeros are left empty."""
    head = " \\ ".join(str(name) for name in (table.index.name, table.columns.name) if name)
    rows = [["" if cell == 0 else cell for cell in row] for row in table.itertuples()]
    lines = [[head, *table.columns], ["---"] + ["---:"] * len(table.columns), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number of at least 1 is wanted")
    return int(text)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    example = "example: python -m demo.exam --lora lora.safetensors --json exam.json"
    parser = argparse.ArgumentParser("python -m demo.exam", description=__doc__, epilog=example)
    parser.add_argument("--base", type=Path, default=Path("demo/base"), help="pipeline folder (default: %(default)s)")
    parser.add_argument("--lora", type=Path, help="LoRA file: examine it too, and count zorblings")
    parser.add_argument("--prompts", type=_positive, default=200, help="held-out scenes (default: %(default)s)")
    parser.add_argument("--steps", type=_positive, default=10, help="denoising steps (default: %(default)s)")
    parser.add_argument("--guidance", type=float, default=1.0, help="guidance scale (default: %(default)s)")
    parser.add_argument("--threads", type=_positive, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all figures to this file too")
    options = parser.parse_args(arguments)
    if not (options.base / "model_index.json").is_file():
        parser.error(f"--base {options.base}: there is no model_index.json. Give a diffusers pipeline's folder.")
    if options.lora is not None and not options.lora.is_file():
        parser.error(f"--lora {options.lora}: there is no such file.")
    if options.json is not None and not options.json.parent.is_dir():
        parser.error(f"--json {options.json}: its folder does not exist.")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = _parse(arguments)
    results = run(options)
    print(report(results), end="")
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
