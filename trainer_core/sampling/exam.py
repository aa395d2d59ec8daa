"""The exam of a LoRA: pictures of fixed prompts and seeds, and the scores that a judge gives them."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import numpy
import torch
from PIL import Image

from trainer_core.errors import ConfigError, ModelError
from trainer_core.sampling.batching import render_requests
from trainer_core.sampling.render import Inputs, RenderSettings, prompt_request
from trainer_core.types import Finding

Score = Callable[[Image.Image, str], float]
"""(picture, prompt) -> how much of the prompt is there; for a judge in [0, 1]."""
_JUDGED = ("concept_score", "following")
Pictures = Sequence[Sequence[Image.Image]]
"""Of each prompt of an exam its pictures, one a seed."""


@dataclass(frozen=True)
class Exam:
    """What is rendered and how it is scored."""

    concept_prompts: tuple[str, ...]
    other_prompts: tuple[str, ...]
    pictures: int
    """Of each prompt, from seeds `seed`, `seed + 1` ..."""
    settings: RenderSettings
    """How they are rendered, and the control pictures of all prompts in order; its own prompts are not read."""
    scores: Mapping[str, Score]
    """Prefix of the figure -> score: "" for the judge, "clip_" for the CLIP score."""

    @property
    def prompts(self) -> tuple[str, ...]:
        """All prompts."""
        return self.concept_prompts + self.other_prompts


def render_exam(pipeline: Any, inputs: Inputs, exam: Exam, on_picture: Callable[[], None]) -> list[list[Image.Image]]:
    """Render every prompt of an exam with all its seeds; return the pictures of each prompt."""
    settings = replace(exam.settings, prompts=exam.prompts)
    seeds = range(settings.seed, settings.seed + exam.pictures)
    requests = [prompt_request(pipeline, inputs, settings, position, seeds) for position in range(len(exam.prompts))]
    return render_requests(pipeline, requests, settings.prediction, on_picture)


@dataclass(frozen=True)
class ExamScores:
    """What an exam gave."""

    figures: Mapping[str, float]
    """Name -> value: `concept_score`, `following`, `diversity`, and the same scores by CLIP."""
    judged: Mapping[str, tuple[float, ...]]
    """`concept_score` and `following` -> the judge's score of each picture, in the order of prompts, then of seeds."""


def score_exam(exam: Exam, pictures: Pictures) -> ExamScores:
    """Score the pictures of an exam.

    `diversity` is the mean distance between two pictures of one prompt: the root of the mean squared difference of
    their pixels, in [0, 1]. It says that seeds differ, not that they differ in a way that matters.
    """
    taken, concepts = list(zip(exam.prompts, pictures, strict=True)), len(exam.concept_prompts)
    by_picture: dict[str, tuple[float, ...]] = {}
    for prefix, score in exam.scores.items():
        for name, part in (("concept_score", taken[:concepts]), ("following", taken[concepts:])):
            if part:
                by_picture[prefix + name] = tuple(score(one, prompt) for prompt, of_prompt in part for one in of_prompt)
    figures = {name: fmean(scores) for name, scores in by_picture.items()}
    if exam.pictures > 1 and taken:
        figures["diversity"] = fmean(
            _distance(first, second) for _, of_prompt in taken for first, second in combinations(of_prompt, 2)
        )
    return ExamScores(figures, {name: by_picture[name] for name in _JUDGED if name in by_picture})


def load_judge(path: Path) -> Score:
    """Load the function `score` of a Python file. A file within a package may import what else is in it.

    The file is read anew each time, under a name made of its content: a process that lives long sees a change, and two
    files of one name are two. What it imports is Python's own business, cached and in no key.

    Raises:
        ConfigError: there is no such file, it cannot be imported, or it has no such function.
    """
    if not path.is_file():
        raise _judge_error(path, "does not exist")
    root, parts = path.parent, [path.stem]
    while (root / "__init__.py").exists():
        parts.insert(0, root.name)
        root = root.parent
    source = path.read_bytes()
    name = f"{'.'.join(parts)}_{hashlib.sha256(source).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(root))
    try:
        # Not by the loader, which would keep bytecode beside the user's file and take it for the file's of one second.
        exec(compile(source, path, "exec"), vars(module))
    except Exception as error:  # noqa: BLE001 - whatever the user's code raises when it is imported
        raise _judge_error(path, f"cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(root))
    score = getattr(module, "score", None)
    if not callable(score):
        raise _judge_error(path, "has no function `score`")
    return _checked(path, cast(Score, score))


def load_clip_score(path: Path, device: torch.device) -> Score:
    """Load a CLIP model; its score is the cosine of picture and prompt, in [-1, 1]. Source: arXiv 2104.08718, unscaled.

    Raises:
        ModelError: the folder holds no CLIP model.
    """
    from transformers import CLIPModel, CLIPProcessor

    try:
        model = cast(Any, CLIPModel.from_pretrained(path, local_files_only=True)).to(device).eval()
        processor = cast(Any, CLIPProcessor.from_pretrained(path, local_files_only=True))
    except (OSError, ValueError) as error:
        fix = "Give a folder with a CLIP model and its processor in transformers format."
        raise ModelError(f"gate.clip_path: {path}: {error}. {fix}") from error

    def score(picture: Image.Image, prompt: str) -> float:
        inputs = processor(text=[prompt], images=[picture], return_tensors="pt", truncation=True).to(device)
        with torch.inference_mode():
            outputs = model(**inputs)
        return float(torch.nn.functional.cosine_similarity(outputs.image_embeds, outputs.text_embeds).item())

    return score


def _distance(first: Image.Image, second: Image.Image) -> float:
    one, other = (numpy.asarray(picture.convert("RGB"), numpy.float64) / 255 for picture in (first, second))
    return float(numpy.sqrt(numpy.mean((one - other) ** 2)))


def _checked(path: Path, score: Score) -> Score:
    def checked(picture: Image.Image, prompt: str) -> float:
        try:
            value = float(score(picture, prompt))
        except Exception as error:
            raise _judge_error(path, f"failed on {prompt!r}: {type(error).__name__}: {error}") from error
        if not 0.0 <= value <= 1.0:
            raise _judge_error(path, f"gave {value} for {prompt!r}, which is not in [0, 1]")
        return value

    return checked


def _judge_error(path: Path, problem: str) -> ConfigError:
    fix = "Name a Python file with a function `score(picture, prompt)` that returns a number in [0, 1]."
    return ConfigError([Finding("error", "gate.judge", f"{path} {problem}.", fix)])
