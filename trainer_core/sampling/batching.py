"""Render many pictures in few calls of a pipeline, each as it would be alone.

A call of a small model costs about as much for six pictures as for two, so prompts that are rendered in the same way
share calls. Every picture has a random generator of its own: which pictures share a call changes no more than the
rounding of sums (at most one level of 255 in float32).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any

from trainer_core.hardware.out_of_memory import in_smaller_batches
from trainer_core.lazy import torch
from trainer_core.sampling.samplers import sampling_with

if TYPE_CHECKING:
    from PIL import Image

MAX_PICTURES = 8
"""Most pictures of a call: more of them are no faster on CPUs, where their activations leave the cache."""
MAX_PIXELS = 1024 * 1024
"""Most pixels of a call, so that a batch needs no more memory than one picture of 1024 x 1024 does."""


@dataclass(frozen=True)
class PromptRequest:
    """A prompt, and the seeds of the pictures that are wanted of it."""

    arguments: Mapping[str, Any]
    """Arguments of the pipeline's call for one picture, but for its generator; `width` and `height` among them."""
    seeds: tuple[int, ...]
    sampler: str = ""
    """A name of `samplers.py`; empty for the base's own."""


def render_requests(
    pipeline: Any, requests: Sequence[PromptRequest], prediction: str, on_picture: Callable[[], None]
) -> list[list[Image.Image]]:
    """Return the pictures of each request, one a seed.

    Args:
        pipeline: a diffusers pipeline on its device.
        requests: what to render.
        prediction: the family's `spec.prediction`; samplers differ by it.
        on_picture: called once a picture, after the call that rendered it.

    Raises:
        ConfigError: a sampler does not fit the pipeline.
    """
    pictures: dict[tuple[int, int], Image.Image] = {}
    for positions, seed_numbers in _plan_calls(pipeline, requests):
        with sampling_with(pipeline, requests[positions[0]].sampler, prediction):
            for rendered in _call_that_fits(pipeline, requests, positions, seed_numbers):
                for key, picture in rendered.items():
                    pictures[key] = picture
                    on_picture()
    return [
        [pictures[position, number] for number in range(len(request.seeds))]
        for position, request in enumerate(requests)
    ]


def pipeline_accepts(pipeline: Any, argument: str) -> bool:
    """Say whether a pipeline's call has a keyword argument."""
    return argument in signature(type(pipeline).__call__).parameters


def _plan_calls(pipeline: Any, requests: Sequence[PromptRequest]) -> list[tuple[Sequence[int], Sequence[int]]]:
    """Return (positions of requests, numbers of their seeds) of each call."""
    groups: defaultdict[Hashable, list[int]] = defaultdict(list)
    for position, request in enumerate(requests):
        groups[_group(request, position)].append(position)
    takes_several = pipeline_accepts(pipeline, "num_images_per_prompt")
    calls: list[tuple[Sequence[int], Sequence[int]]] = []
    for positions in groups.values():
        first = requests[positions[0]]
        most = _most_pictures(first.arguments) if takes_several else 1
        for some_seeds in _chunks(range(len(first.seeds)), most):
            calls += [(some, some_seeds) for some in _chunks(positions, max(1, most // len(some_seeds)))]
    return calls


def _chunks(items: Sequence[int], size: int) -> list[Sequence[int]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _most_pictures(arguments: Mapping[str, Any]) -> int:
    pixels = arguments["width"] * arguments["height"]
    return max(1, min(MAX_PICTURES, MAX_PIXELS // pixels))


def _group(request: PromptRequest, position: int) -> Hashable:
    """Return what requests that can share a call have in common; a prompt that can share none is a group of its own."""
    common: list[Hashable] = [request.sampler, len(request.seeds)]
    for name, value in request.arguments.items():
        if "prompt" in name and isinstance(value, str):
            common.append((name, "text"))
        elif "prompt" in name and isinstance(value, torch.Tensor):
            common.append((name, tuple(value.shape), value.dtype))
        elif value is None or isinstance(value, bool | int | float | str):
            common.append((name, value))
        else:
            # control pictures: a list of them means several pictures of one prompt to most pipelines
            return position
    return tuple(common)


def _merge(arguments: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the arguments of one call for several prompts of one group."""
    merged = dict(arguments[0])
    if len(arguments) == 1:
        return merged
    for name in merged:
        values = [one[name] for one in arguments]
        if "prompt" in name and isinstance(values[0], str):
            merged[name] = values
        elif isinstance(values[0], torch.Tensor):
            merged[name] = torch.cat(values)
    return merged


def _call_that_fits(
    pipeline: Any, requests: Sequence[PromptRequest], positions: Sequence[int], seed_numbers: Sequence[int]
) -> list[dict[tuple[int, int], Image.Image]]:
    """Return (position, number of seed) -> picture, in one call, or in several smaller ones where memory runs out."""

    def of_prompts(start: int, end: int) -> list[dict[tuple[int, int], Image.Image]]:
        some = positions[start:end]
        arguments = _merge([requests[position].arguments for position in some])

        def of_seeds(first: int, last: int) -> dict[tuple[int, int], Image.Image]:
            keys = [(position, number) for position in some for number in seed_numbers[first:last]]
            seeds = [requests[position].seeds[number] for position, number in keys]
            return dict(zip(keys, _call(pipeline, dict(arguments), seeds, last - first), strict=True))

        return in_smaller_batches(of_seeds, len(seed_numbers), len(seed_numbers))

    parts = in_smaller_batches(of_prompts, len(positions), len(positions))
    return [rendered for part in parts for rendered in part]


def _call(pipeline: Any, arguments: dict[str, Any], seeds: Sequence[int], per_prompt: int) -> list[Image.Image]:
    # CPU generators give the same starting noise on every device.
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    if len(seeds) > 1:
        arguments |= {"generator": generators, "num_images_per_prompt": per_prompt}
    else:
        arguments |= {"generator": generators[0]}
    # Some pipelines name their pictures otherwise than `images`, but all return them first.
    return list(pipeline(**arguments, return_dict=False)[0])
