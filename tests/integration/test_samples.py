"""Samples from a file of prompts, with samplers of one's own; and a LoRA that no failing samples can harm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.projects import TinyProject, computed
from tests.unit.cli.support import call, told
from trainer_core.errors import ConfigError, StageFailed
from trainer_core.run import StageResult

PROMPTS = """\
# what the concept should show
a small picture --d 11 --s 3
a small picture --n blurry --w 96 --h 64 --d 11 --l 2.5 --s 3 --ss euler_a

another one
"""


@pytest.fixture
def project(finished_sd15: Path, tmp_path: Path) -> TinyProject:
    return TinyProject(finished_sd15).copy(tmp_path / "project")


def picture(result: StageResult, row: int, column: str = "LoRA-1") -> Image.Image:
    with Image.open(result.published.path / "pictures" / column / f"{row:02d}.png") as opened:
        return opened.convert("RGB")


def plain_diffusers(project: TinyProject, scheduler: str, prompt: str, **call: Any) -> bytes:
    """Render as a user of diffusers would."""
    import diffusers
    import torch

    pipeline = diffusers.DiffusionPipeline.from_pretrained(project.base)
    pipeline.set_progress_bar_config(disable=True)
    if scheduler:
        pipeline.scheduler = getattr(diffusers, scheduler).from_config(pipeline.scheduler.config)
    pipeline.load_lora_weights(str(project.lora.parent), weight_name=project.lora.name)
    seed = torch.Generator().manual_seed(call.pop("seed"))
    return pipeline(prompt, generator=seed, **call).images[0].tobytes()


@pytest.mark.setting("sample.prompt_file")
def test_each_prompt_of_a_file_is_rendered_with_what_stands_beside_it(project: TinyProject) -> None:
    (project.folder / "prompts.txt").write_text(PROMPTS)
    result = project.run(f"sample.prompt_file={project.folder / 'prompts.txt'}")["samples"]
    assert result.published.metadata["prompts"] == ["a small picture", "a small picture", "another one"]
    plain = {"height": 64, "width": 64, "guidance_scale": 5.0}
    first = plain_diffusers(project, "", "a small picture", seed=11, num_inference_steps=3, **plain)
    assert picture(result, 0).tobytes() == first
    own = {"height": 64, "width": 96, "guidance_scale": 2.5, "num_inference_steps": 3, "negative_prompt": "blurry"}
    second = plain_diffusers(project, "EulerAncestralDiscreteScheduler", "a small picture", seed=11, **own)
    assert (picture(result, 1).size, picture(result, 1).tobytes()) == ((96, 64), second)
    # What stands nowhere is the project's: seed 3 and the row's number, 2 steps.
    third = plain_diffusers(project, "", "another one", seed=5, num_inference_steps=2, **plain)
    assert picture(result, 2).tobytes() == third
    assert (project.home / "outputs" / "tiny" / "samples.png").exists()


@pytest.mark.setting("sample.prompt_file")
def test_what_the_file_says_is_in_the_key_and_where_it_lies_is_not(project: TinyProject) -> None:
    first, second = project.folder / "prompts.txt", project.folder / "moved.json"
    first.write_text("a cat --d 4\n")
    project.run(f"sample.prompt_file={first}")
    second.write_text(json.dumps([{"prompt": "a cat", "seed": 4}]))
    assert project.run(f"sample.prompt_file={second}")["samples"].action == "reused"
    second.write_text(json.dumps([{"prompt": "a cat", "seed": 5}]))
    assert computed(project.run(f"sample.prompt_file={second}")).keys() == {"samples"}


@pytest.mark.setting("sample.prompt_file", "sample.sampler")
def test_what_is_wrong_in_the_file_is_told_before_anything_is_computed(project: TinyProject) -> None:
    path = project.folder / "prompts.txt"
    path.write_text("a cat --w 60\na dog --ss flow_match_euler_karras\n")
    with pytest.raises(ConfigError) as caught:
        project.plan(f"sample.prompt_file={path}")
    found = [str(one) for one in caught.value.findings]
    assert "prompt 1: 60 pixels" in found[0] and "Use 64" in found[0]
    assert "prompt 2: 'flow_match_euler_karras' is no sampler" in found[1] and "euler_a" in found[1]
    path.write_text("a cat --d x\n")
    with pytest.raises(ConfigError, match=r"prompts\.txt:1: `--d` is 'x', wanted a whole number"):
        project.plan(f"sample.prompt_file={path}")


@pytest.mark.setting("sample.sampler", "sample.steps", "sample.seed", "sample.guidance", "sample.negative_prompt")
@pytest.mark.parametrize(
    ("name", "scheduler"),
    [("", ""), ("k_euler_a", "EulerAncestralDiscreteScheduler"), ("HeunDiscreteScheduler", "HeunDiscreteScheduler")],
)
def test_a_sampler_renders_what_diffusers_renders_with_that_scheduler(
    project: TinyProject, name: str, scheduler: str
) -> None:
    sample = ("sample.steps=3", "sample.seed=9", "sample.guidance=3", "sample.negative_prompt=blurry")
    result = project.run(f"sample.sampler={name or chr(39) * 2}", *sample)["samples"]
    size = {"height": 64, "width": 64, "guidance_scale": 3.0, "num_inference_steps": 3, "negative_prompt": "blurry"}
    assert picture(result, 0).tobytes() == plain_diffusers(project, scheduler, "a small picture", seed=9, **size)


@pytest.mark.setting("sample.width", "sample.height", "sample.strengths", "sample.prompts")
def test_size_prompts_and_strengths_are_those_asked_for(project: TinyProject) -> None:
    asked = ("sample.width=96", "sample.height=32", "sample.strengths=[0.25]", "sample.prompts=[a cat, a dog]")
    result = project.run(*asked)["samples"]
    assert result.published.metadata["prompts"] == ["a cat", "a dog"]
    assert result.published.metadata["columns"] == ["base", "LoRA 0.25"]
    assert picture(result, 1, "LoRA-0.25").size == (96, 32)


@pytest.mark.setting("sample.every")
def test_samples_on_the_way_stand_between_base_and_lora(project: TinyProject) -> None:
    columns = project.run("sample.every=2")["samples"].published.metadata["columns"]
    assert columns[:3] == ["base", "step 2", "step 4"]


def break_rendering(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    from trainer_core.stages.rendering import render_samples

    def broken(*arguments: object) -> object:
        raise error

    monkeypatch.setattr(render_samples, "render", broken)


OUT_OF_MEMORY = RuntimeError("CUDA out of memory. Tried to allocate 20 GiB")


@pytest.mark.parametrize("error", [OUT_OF_MEMORY, ValueError("a bug of the pipeline")])
def test_samples_that_fail_harm_neither_lora_nor_metrics(
    project: TinyProject, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    break_rendering(monkeypatch, error)
    with pytest.raises(StageFailed, match="samples failed: ") as caught:
        project.run("train.seed=21")
    done = {result.name: result for result in caught.value.done}  # type: ignore[attr-defined]
    assert "samples" not in done and {"lora_checkpoint", "metrics"} <= done.keys()
    assert done["lora_checkpoint"].published.verify() == []
    monkeypatch.undo()
    again = project.run("train.seed=21")
    assert computed(again).keys() == {"samples"}


def test_the_command_line_says_what_failed_and_how_to_render_alone(
    project: TinyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_rendering(monkeypatch, OUT_OF_MEMORY)
    done = call("train", project.config, "--set", "train.seed=22", "--json")
    assert done.exit_code == 1
    answer = told(done)
    assert answer["lora"]["path"] == str(project.lora) and project.lora.exists()
    assert "samples: out of memory" in done.stderr and "sample.width" in done.stderr
    assert f"lora-assets sample {project.config} --set train.seed=22" in done.stderr
    assert "Traceback" not in done.stderr
    monkeypatch.undo()
    assert call("sample", project.config, "--set", "train.seed=22").exit_code == 0


def test_the_sample_command_takes_a_file_and_a_sampler(project: TinyProject, tmp_path: Path) -> None:
    path = tmp_path / "prompts.toml"
    path.write_text('[[prompt]]\nprompt = "a cat"\nseed = 3\n[[prompt]]\nprompt = "a dog"\nsampler = "ddim"\n')
    one = told(call("sample", project.config, "--prompt-file", path, "--out", tmp_path / "a.png", "--json"))
    assert one["prompts"] == ["a cat", "a dog"]
    call("sample", project.config, "--prompt-file", path, "--sampler", "euler_a", "--out", tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()
    wrong = call("sample", project.config, "--prompt", "a cat", "--sampler", "flow_match_heun_2")
    assert wrong.exit_code == 2 and "renders with" in wrong.stderr
    assert call("sample", project.config, "--sampler", "ddim").exit_code == 2
