"""Memory that runs out: the next measure is taken, recorded, and the work goes on from where it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.projects import TinyProject
from trainer_core.errors import LoraAssetsError, StageFailed
from trainer_core.train import step

RUN = ("train.steps=6", "train.checkpoint_every=2", "train.seed=11")
"""Another seed than that of the finished run, which could be gone on with."""
NEEDS_LORA = "lora_checkpoint"


@pytest.fixture
def project(finished_sd15: Path, tmp_path: Path) -> TinyProject:
    return TinyProject(finished_sd15).copy(tmp_path / "project")


def failing(real: Callable[..., Any], fails: Callable[[int], bool]) -> Callable[..., Any]:
    """Return a function that runs out of memory, half done, in those of its calls that `fails` names from 1."""
    calls = 0

    def work(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        result = real(*arguments, **options)
        if fails(calls):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return result

    return work


def weights(project: TinyProject) -> dict[str, torch.Tensor]:
    return load_file(project.lora)


def rungs(project: TinyProject) -> list[tuple[int, str]]:
    (lines,) = [
        [json.loads(line) for line in path.read_text().splitlines()]
        for path in project.store.glob("runs/*/metrics.jsonl")
        if '"rung"' in path.read_text()
    ]
    return [(line["step"], line["rung"]["measure"]) for line in lines if "rung" in line]


@pytest.mark.setting("memory.on_oom")
def test_a_step_that_ran_out_of_memory_is_done_again_and_the_lora_is_that_of_the_plan(
    project: TinyProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls 3, 4 and 5 are the first tries of step 3."""
    plain = project.copy(tmp_path / "plain")
    plain.run(*RUN, until=NEEDS_LORA)
    planned = project.copy(tmp_path / "planned")
    planned.run(*RUN, "train.gradient_checkpointing=true", "memory.micro_batch=1", until=NEEDS_LORA)
    monkeypatch.setattr(step, "training_loss", failing(step.training_loss, lambda call: call in (3, 4, 5)))
    result = project.run(*RUN, until=NEEDS_LORA)[NEEDS_LORA]
    taken = [
        (2, "gradient checkpointing of every second block"),
        (2, "gradient checkpointing of all blocks"),
        (2, "micro-batches of 1 instead of 2"),
    ]
    assert rungs(project) == taken
    assert [(one["step"], one["measure"]) for one in result.published.metadata["rungs"]] == taken
    assert result.published.metadata["rungs"][-1]["plan"]["micro_batch"] == 1
    for other in (plain, planned):
        expected, found = weights(other), weights(project)
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-5)


def test_recomputing_after_running_out_of_memory_gives_the_same_bits(
    project: TinyProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = project.copy(tmp_path / "plain")
    expected = plain.run(*RUN, "train.gradient_accumulation_steps=2", until=NEEDS_LORA)[NEEDS_LORA]
    monkeypatch.setattr(step, "training_loss", failing(step.training_loss, lambda call: call == 6))
    found = project.run(*RUN, "train.gradient_accumulation_steps=2", until=NEEDS_LORA)[NEEDS_LORA]
    assert rungs(project) == [(2, "gradient checkpointing of every second block")]
    assert found.data_version == expected.data_version


def test_after_the_last_measure_the_run_stops_with_what_was_tried_and_goes_on_later_with_all_of_it(
    project: TinyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(step, "training_loss", failing(step.training_loss, lambda call: call > 2))
        with pytest.raises(LoraAssetsError) as caught:
            project.run(*RUN, until=NEEDS_LORA)
    told = str(caught.value)
    assert "out of memory at step 3" in told
    assert "after step 2: gradient checkpointing of all blocks" in told
    assert "after step 2: micro-batches of 1 instead of 2" in told
    assert "Lower train.batch_size" in told
    seen: list[int] = []
    real = step.training_loss

    def note(trainer: Any, batch: Any) -> Any:
        seen.append(len(batch.sample_ids))
        return real(trainer, batch)

    monkeypatch.setattr(step, "training_loss", note)
    result = project.run(*RUN, until=NEEDS_LORA)[NEEDS_LORA]
    assert (result.items_computed, result.items_reused) == (4, 2)
    assert set(seen) == {1}
    assert len(rungs(project)) == 3


def test_with_on_oom_stop_nothing_is_tried(project: TinyProject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "training_loss", failing(step.training_loss, lambda call: call == 3))
    with pytest.raises(LoraAssetsError, match="memory.on_oom to lower"):
        project.run(*RUN, "memory.on_oom=stop", until=NEEDS_LORA)
    assert not any('"rung"' in path.read_text() for path in project.store.glob("runs/*/metrics.jsonl"))


@pytest.mark.setting("memory.micro_batch", "hardware.lora")
@pytest.mark.parametrize(("other", "apart"), [("memory.micro_batch=1", 1e-3), ("hardware.lora=peft", 0.05)])
def test_a_batch_in_parts_and_pefts_layers_train_the_same(
    project: TinyProject, tmp_path: Path, other: str, apart: float
) -> None:
    """PEFT rounds sums elsewhere, and AdamW makes whole steps of gradients that are nothing but rounding."""
    plain = project.copy(tmp_path / "plain")
    plain.run(*RUN, until=NEEDS_LORA)
    project.run(*RUN, other, until=NEEDS_LORA)
    expected, found = weights(plain), weights(project)
    difference = sum((found[name].float() - one.float()).square().sum() for name, one in expected.items())
    whole = sum(one.float().square().sum() for one in expected.values())
    assert (difference / whole).sqrt() < apart  # type: ignore[union-attr]


def test_encoding_goes_on_in_smaller_batches(new_project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer_core.families.models import sd15

    sizes: list[int] = []
    real = sd15.StableDiffusion15.encode_latents

    def encode(family: Any, vae: Any, pixels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pixels))
        if len(pixels) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(family, vae, pixels)

    monkeypatch.setattr(sd15.StableDiffusion15, "encode_latents", encode)
    result = new_project("sd15").run("latents.batch_size=2", until="cached_latents")["cached_latents"]
    assert result.items_computed == 8
    assert sizes.count(1) == 8
    assert sizes.count(2) == 1, "later batches are no larger than what fitted"


def test_evaluation_goes_on_in_smaller_batches(project: TinyProject, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer_core.families.models import sd15

    sizes: list[int] = []
    real = sd15.StableDiffusion15.predict

    def predict(family: Any, denoiser: Any, noisy: torch.Tensor, *rest: Any) -> torch.Tensor:
        if not torch.is_grad_enabled():
            sizes.append(len(noisy))
            if len(noisy) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(family, denoiser, noisy, *rest)

    monkeypatch.setattr(sd15.StableDiffusion15, "predict", predict)
    result = project.run(*RUN, until=NEEDS_LORA)[NEEDS_LORA]
    assert result.published.metadata["held_out_losses"]
    assert max(sizes) > 1
    assert sizes.count(1) > 1


def test_rendering_goes_on_picture_by_picture(project: TinyProject, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer_core.sampling import batching

    sizes: list[int] = []
    real = batching._call  # pyright: ignore[reportPrivateUsage]

    def call(pipeline: Any, arguments: dict[str, Any], seeds: list[int], per_prompt: int) -> Any:
        sizes.append(len(seeds))
        if len(seeds) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(pipeline, arguments, seeds, per_prompt)

    monkeypatch.setattr(batching, "_call", call)
    result = project.run('sample.prompts=["one", "two"]', until="samples")["samples"]
    assert result.published.metadata["pictures"] == 8
    assert sizes == [2, 1, 1] * 4


def test_what_samples_held_is_gone_when_metrics_begin(project: TinyProject, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exception lives on to be reported at the end; its frames must not keep the pipeline on the device."""
    import weakref

    from trainer_core.stages.rendering import render_samples

    held: list[Any] = []
    real = render_samples.open_pipeline

    def opened(*arguments: Any) -> Any:
        pipeline = real(*arguments)
        held.append(weakref.ref(pipeline))
        return pipeline

    def out_of_memory(*arguments: Any, **options: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(render_samples, "open_pipeline", opened)
    monkeypatch.setattr(render_samples, "render", out_of_memory)
    with pytest.raises(StageFailed, match=r"samples.*out of memory.*Lower sample.width"):
        project.run("sample.seed=99")
    assert [reference() for reference in held] == [None]
