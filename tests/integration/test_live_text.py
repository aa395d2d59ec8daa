"""Captions that are encoded while training give what cached ones give, and are in the keys as cached ones are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.contract import whole_run
from tests.contract.models import MODELS
from tests.projects import NewProject, TinyProject, statuses
from trainer_core import run
from trainer_core.run import StageResult
from trainer_core.types import Sample

STEPS = 4
SETTINGS = (f"train.steps={STEPS}", "logging.every=1", "export.dtype=fp32")
LIVE = (*SETTINGS, "text.cache=never")


def train(project: TinyProject, *settings: str) -> dict[str, StageResult]:
    return project.run(*settings, until="lora_checkpoint")


def losses(result: StageResult) -> list[float]:
    lines = result.published.file("training.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.setting("text.cache")
@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3", "flux1", "qwen_image_edit"])
def test_captions_encoded_while_training_give_the_losses_of_cached_ones(name: str, new_project: NewProject) -> None:
    project = new_project(name)
    pairs: tuple[str, ...] = ()
    if MODELS[name].controls:
        pairs = (*whole_run.paired(project, MODELS[name].controls), "datasets.0.held_out=0.4")
        for number in range(whole_run.PICTURES, 8):
            (project.pictures / f"{number:03d}.png").unlink()
            (project.pictures / f"{number:03d}.txt").unlink()
    cached = train(project, *SETTINGS, *pairs)
    live = train(project, *LIVE, *pairs)
    assert live["lora_checkpoint"].items_computed == STEPS
    assert losses(live["lora_checkpoint"]) == pytest.approx(losses(cached["lora_checkpoint"]), rel=1e-5)
    held_out = [result["lora_checkpoint"].published.metadata["held_out_losses"] for result in (cached, live)]
    assert held_out[1] == pytest.approx(held_out[0], rel=1e-4)


@pytest.mark.setting("text.cache")
def test_without_a_cache_only_held_out_captions_are_encoded_before_training(new_project: NewProject) -> None:
    project = new_project("sd15")
    results = train(project, *LIVE)
    held_out = results["validated_dataset"].published.metadata["statistics"]["held_out"]
    assert results["cached_text_embeddings"].items_computed == held_out == 2


@pytest.mark.setting("text.cache", "text.clip_tokens", "text.max_length", "text.clip_skip")
def test_a_run_that_encodes_captions_depends_on_captions_and_encoders_and_on_nothing_else(
    new_project: NewProject,
) -> None:
    project = new_project("sd15")
    train(project, *LIVE)
    stages = ("cached_latents", "lora_checkpoint")
    assert statuses(project.plan(*LIVE), stages) == dict.fromkeys(stages, "fresh")
    # SD1.5 reads 77 tokens whatever is asked for
    assert project.plan(*LIVE, "text.max_length=70")["lora_checkpoint"].status == "fresh"
    for changed in ("text.clip_tokens=150", "text.clip_skip=1", "text.precision=bf16"):
        assert statuses(project.plan(*LIVE, changed), stages) == {
            "cached_latents": "fresh",
            "lora_checkpoint": "stale",
        }, changed
    trained = next(sample.id for sample in _samples(project) if sample.split == "train" and sample.id.endswith("1.png"))
    (project.pictures / Path(trained).with_suffix(".txt").name).write_text("another caption\n")
    assert project.plan(*LIVE)["lora_checkpoint"].status == "stale"


@pytest.mark.setting("text.cache")
def test_captions_that_nothing_encodes_beforehand_still_move_the_data_version(new_project: NewProject) -> None:
    """Dagster sees nothing but data versions: with no picture held out there is no entry that could change."""
    project = new_project("sd15")
    live = (*LIVE, "datasets.0.held_out=0")
    before = project.plan(*live)["cached_text_embeddings"]
    (project.pictures / "003.txt").write_text("another caption\n")
    after = project.plan(*live)["cached_text_embeddings"]
    assert (before.total, after.total) == (0, 0)
    assert before.data_version is None or before.data_version != after.data_version
    first, second = (
        project.run(*live, *more, until="cached_text_embeddings")["cached_text_embeddings"].data_version
        for more in ((), ("caption.trigger_word=zorb",))
    )
    assert first != second


@pytest.mark.setting("text.cache")
def test_asking_for_the_cache_that_is_the_default_trains_nothing_again(new_project: NewProject) -> None:
    project = new_project("sd15")
    train(project, *SETTINGS)
    assert set(statuses(project.plan(*SETTINGS, "text.cache=always"), ("lora_checkpoint",)).values()) == {"fresh"}


@pytest.mark.setting("text.clip_tokens")
def test_more_tokens_encode_captions_again_and_keep_the_pictures(new_project: NewProject) -> None:
    project = new_project("sd15")
    train(project, *SETTINGS)
    plans = project.plan(*SETTINGS, "text.clip_tokens=225")
    assert plans["cached_latents"].status == "fresh"
    assert plans["cached_text_embeddings"].stale_count == 8
    assert train(project, *SETTINGS, "text.clip_tokens=225")["lora_checkpoint"].items_computed == STEPS


def _samples(project: TinyProject) -> Sequence[Sample]:
    session = run.open_session(project.config)
    try:
        return session.workspace.manifest.samples
    finally:
        session.close()
