"""What a pipeline is asked for a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from trainer_core.sampling.render import RenderSettings, render

SETTINGS = RenderSettings(("a cat", "a dog"), "blurry", 2, 4.0, 7, 32, 16)
PICTURE = Image.new("RGB", (4, 4))


class Pipeline:
    """Notes what it is asked; renders one picture a call."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def __call__(self, **arguments: Any) -> Any:
        self.asked.append(arguments)
        return ([PICTURE],)


class ByArea(Pipeline):
    """A pipeline that renders an area, whatever size it is told, as FLUX.1 Kontext's does."""

    def __call__(self, max_area: int = 1024**2, **arguments: Any) -> Any:
        return super().__call__(max_area=max_area, **arguments)


def inputs(pipeline: Any, prompt: str, negative_prompt: str, controls: Sequence[Image.Image]) -> dict[str, Any]:
    return {"prompt": prompt, "negative_prompt": negative_prompt, "image": list(controls)}


def test_the_family_says_what_the_pipeline_needs_of_prompt_and_control_pictures() -> None:
    pipeline = Pipeline()
    settings = RenderSettings(("a cat", "a dog"), "blurry", 2, 4.0, 7, 32, 16, ((PICTURE,), ()))
    render(pipeline, inputs, settings, lambda: None)
    seeds = [one.pop("generator").initial_seed() for one in pipeline.asked]
    assert seeds == [7, 8]
    common = {"num_inference_steps": 2, "guidance_scale": 4.0, "width": 32, "height": 16, "return_dict": False}
    common["negative_prompt"] = "blurry"
    assert pipeline.asked == [
        common | {"prompt": "a cat", "image": [PICTURE]},
        common | {"prompt": "a dog", "image": []},
    ]


def test_a_pipeline_that_renders_an_area_is_told_the_area_of_the_size() -> None:
    pipeline = ByArea()
    render(pipeline, inputs, SETTINGS, lambda: None)
    assert [(one["max_area"], one["width"], one["height"]) for one in pipeline.asked] == [(512, 32, 16)] * 2
