"""Which pictures share a call of the pipeline, and that each comes back to its own prompt and seed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from trainer_core.sampling.batching import MAX_PICTURES, PromptRequest, render_requests


class Pipeline:
    """Gives each picture the width of its prompt and the height of its seed, and notes the size of its calls."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, prompt: Any = None, num_images_per_prompt: int = 1, generator: Any = None, **others: Any) -> Any:
        generators = generator if isinstance(generator, list) else [generator]
        texts = prompt if isinstance(prompt, list) else [prompt]
        if "prompt_embeds" in others:
            texts = ["x" * int(row[0]) for row in others["prompt_embeds"]]
        repeated = [text for text in texts for _ in range(num_images_per_prompt)]
        self.calls.append(len(repeated))
        pairs = zip(repeated, generators, strict=True)
        return ([Image.new("L", (len(text), made.initial_seed())) for text, made in pairs],)


def request(prompt: str = "cat", seeds: tuple[int, ...] = (1,), side: int = 64, **others: Any) -> PromptRequest:
    return PromptRequest({"prompt": prompt, "width": side, "height": side, **others}, seeds)


def render(requests: list[PromptRequest]) -> list[int]:
    """Render, check that every picture is of its own prompt and seed, and return the sizes of the calls."""
    pipeline, counted = Pipeline(), list[int]()
    rendered = render_requests(pipeline, requests, "diffusion", lambda: counted.append(1))
    for asked, pictures in zip(requests, rendered, strict=True):
        text = asked.arguments.get("prompt")
        width = int(asked.arguments["prompt_embeds"][0, 0]) if text is None else len(text)
        assert [picture.size for picture in pictures] == [(width, seed) for seed in asked.seeds]
    assert len(counted) == sum(pipeline.calls) == sum(len(asked.seeds) for asked in requests)
    return pipeline.calls


def test_prompts_that_are_rendered_alike_share_a_call() -> None:
    assert render([request("a"), request("bb", (2,)), request("ccc", (3,))]) == [3]


def test_no_call_has_more_pictures_than_the_limit() -> None:
    assert max(render([request("a" * (n + 1), (n + 1,)) for n in range(20)])) == MAX_PICTURES


def test_seeds_beyond_the_limit_of_a_call_are_split() -> None:
    calls = render([request("a", tuple(range(1, 13))), request("bb", tuple(range(1, 13)))])
    assert max(calls) == MAX_PICTURES and len(calls) == 3


def test_large_pictures_are_rendered_one_by_one() -> None:
    assert render([request("a", (1, 2), side=1024), request("bb", (1, 2), side=1024)]) == [1, 1, 1, 1]
    assert render([request("a", (1, 2), side=512), request("bb", (1, 2), side=512)]) == [4]


@pytest.mark.parametrize(
    "other", [{"side": 32}, {"guidance_scale": 2.0}, {"num_inference_steps": 3}, {"negative_prompt": "blurry"}]
)
def test_prompts_that_differ_in_size_or_settings_share_none(other: dict[str, Any]) -> None:
    assert render([request("a"), request("bb", (2,), **other), request("ccc", (3,))]) == [2, 1]


def test_encoded_prompts_of_one_length_share_a_call() -> None:
    def encoded(value: int, length: int) -> PromptRequest:
        embeds = torch.full((1, length), float(value))
        return PromptRequest({"prompt_embeds": embeds, "width": 64, "height": 64}, (value,))

    assert render([encoded(1, 7), encoded(2, 9), encoded(3, 7)]) == [2, 1]


def test_prompts_with_control_pictures_share_no_call() -> None:
    picture = Image.new("RGB", (4, 4))
    assert render([request("a", image=[picture]), request("bb", (2, 3), image=[picture])]) == [1, 2]


def test_the_arguments_of_a_request_stay_as_they_are() -> None:
    asked = request("a")
    render([asked, request("bb", (2,))])
    render([asked])
    assert asked == request("a")
