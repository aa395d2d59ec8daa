"""Edit pairs from folder to metrics: control pictures are encoded once, used everywhere, and stale when they change."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.control_family import EditFlux1, edit_family, make_pairs, use
from tests.projects import TinyProject, computed, distance, draw_picture, statuses
from tests.unit.cli.support import call, told
from trainer_core import run
from trainer_core.sampling.evaluate import Evaluator
from trainer_core.sampling.grid import layout
from trainer_core.stages.caching.entries import ITEMS, control_id, read_items
from trainer_core.stages.rendering.prompts import chosen_prompts
from trainer_core.store import Store, collect
from trainer_core.types import Conditioning

BELOW = {"lora_checkpoint", "samples", "metrics"}
JUDGE = "def score(picture, prompt):\n    return picture.convert('L').resize((1, 1)).getpixel((0, 0)) / 255\n"
GATE = ("gate.judge=judge.py", "gate.concept_prompts=[a hat]", "gate.other_prompts=[a hat]", "gate.pictures=2")


@pytest.fixture(params=[False, True], ids=["text_is_blind", "text_sees"], scope="module")
def sees(request: pytest.FixtureRequest) -> Iterator[bool]:
    with pytest.MonkeyPatch.context() as patch:
        use(patch, edit_family(in_text=request.param))
        yield request.param


@pytest.fixture(scope="module")
def finished(sees: bool, tmp_path_factory: pytest.TempPathFactory, tiny_bases: dict[str, Path]) -> Path:
    project = make_pairs(tmp_path_factory.mktemp("pairs") / "project", tiny_bases["flux1"])
    text = project.config.read_text()
    assert "prompts: [a small picture]," in text
    project.config.write_text(text.replace("prompts: [a small picture],", "strengths: [1],"))
    project.run()
    return project.folder


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> TinyProject:
    return TinyProject(finished).copy(tmp_path / "project")


def control(project: TinyProject, number: int) -> Path:
    return project.folder / "controls" / f"{number:03d}.png"


def test_an_unchanged_project_is_fresh_and_reused(project: TinyProject) -> None:
    assert set(statuses(project.plan()).values()) == {"fresh"}
    assert computed(project.run()) == {}


def test_an_edited_control_picture_is_one_latent_and_one_embedding_where_the_text_sees_it(
    project: TinyProject, sees: bool
) -> None:
    draw_picture(control(project, 1), seed=50, size=(64, 64))
    plans, name = project.plan(), "pictures/001.png"
    reason = "control picture changed: controls/001.png"
    assert plans["validated_dataset"].stale == ((name, reason),)
    assert plans["cached_latents"].stale == ((control_id(name, 0), reason),)
    assert plans["cached_text_embeddings"].stale == (((name, reason),) if sees else ())
    assert plans["lora_checkpoint"].status == "stale"
    done = computed(project.run())
    assert done["cached_latents"] == 1
    assert done.get("cached_text_embeddings", 0) == int(sees)
    assert done.keys() >= BELOW


def test_touched_and_renamed_control_pictures_change_nothing(project: TinyProject) -> None:
    for path in (project.folder / "controls").iterdir():
        path.touch()
    control(project, 2).rename(control(project, 2).with_suffix(".webp"))
    (project.folder / "controls").rename(project.folder / "moved")
    override = f"datasets.0.control_path={project.folder / 'moved'}"
    assert set(statuses(project.plan(override)).values()) == {"fresh"}
    assert computed(project.run(override)) == {}


def test_a_renamed_control_picture_is_not_named_beside_an_edited_one(project: TinyProject) -> None:
    control(project, 2).rename(control(project, 2).with_suffix(".webp"))
    draw_picture(control(project, 1), seed=50, size=(64, 64))
    assert [name for name, _ in project.plan()["validated_dataset"].stale] == ["pictures/001.png"]


def test_what_dagster_observes_is_the_content_of_control_pictures(project: TinyProject) -> None:
    def observed() -> str:
        session = run.open_session(project.config)
        try:
            return session.workspace.scanned.folder_version
        finally:
            session.close()

    before = observed()
    control(project, 2).rename(control(project, 2).with_suffix(".webp"))
    assert observed() == before
    draw_picture(control(project, 1), seed=50, size=(64, 64))
    assert observed() != before


def test_a_family_that_cuts_control_pictures_encodes_those_of_another_shape_otherwise(
    project: TinyProject, sees: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_picture(control(project, 1), seed=50, size=(100, 50))
    project.run(until="cached_latents")
    use(monkeypatch, edit_family(in_text=sees, crop=True))
    # 48x16 of 100x50 is no longer squeezed; the others have the shape of what is encoded.
    assert [name for name, _ in project.plan()["cached_latents"].stale] == [control_id("pictures/001.png", 0)]


def test_a_renamed_pair_is_not_encoded_again(project: TinyProject) -> None:
    for path in (project.pictures / "003.png", project.pictures / "003.txt", control(project, 3)):
        path.rename(path.with_stem("renamed"))
    plans = project.plan()
    assert plans["cached_latents"].stale_count == plans["cached_text_embeddings"].stale_count == 0
    assert plans["lora_checkpoint"].status == "stale"


def test_a_control_picture_taken_away_trains_again_and_encodes_no_picture(project: TinyProject, sees: bool) -> None:
    control(project, 1).unlink()
    plans = project.plan()
    assert plans["cached_latents"].stale_count == 0
    assert plans["cached_text_embeddings"].stale_count == int(sees)
    gone = ("pictures/001.png", "control picture gone")
    assert plans["validated_dataset"].stale == (gone,)
    assert plans["cached_text_embeddings"].stale == ((gone,) if sees else ())
    assert plans["lora_checkpoint"].status == "stale"


@pytest.mark.setting("bucket.control_resolution")
def test_another_control_resolution_encodes_control_pictures_and_nothing_else(project: TinyProject) -> None:
    plans = project.plan("bucket.control_resolution=64")
    assert {name for name, _ in plans["cached_latents"].stale} == {
        control_id(f"pictures/{number:03d}.png", 0) for number in range(6)
    }
    assert {reason for _, reason in plans["cached_latents"].stale} == {"size of the control picture changed"}
    assert plans["cached_text_embeddings"].status == "fresh"


def test_samples_share_the_latent_of_one_control_picture(project: TinyProject) -> None:
    for number in (1, 2):
        shutil.copy(control(project, 0), control(project, number))
    assert project.plan()["cached_latents"].stale_count == 0
    items = read_items(project.run(until="cached_latents")["cached_latents"].published)
    assert len({items[control_id(f"pictures/{number:03d}.png", 0)]["key"] for number in range(3)}) == 1


def test_garbage_collection_keeps_the_latents_of_control_pictures(project: TinyProject) -> None:
    with Store.open(project.store) as store:
        collect(store, dry_run=False, grace_seconds=0)
    assert set(statuses(project.plan()).values()) == {"fresh"}


def test_a_damaged_latent_of_a_control_picture_is_made_anew(project: TinyProject) -> None:
    with Store.open(project.store) as store:
        published = store.objects.get("cached_latents", str(store.refs.get("tiny", "cached_latents")))
        assert published is not None and ITEMS in published.files
        key = str(read_items(published)[control_id("pictures/001.png", 0)]["key"])
        store.entries.discard([key])
    gone = (control_id("pictures/001.png", 0), "its cached entry is gone or was damaged")
    assert project.plan()["cached_latents"].stale == (gone,)
    assert computed(project.run())["cached_latents"] == 1


def test_training_and_evaluation_are_given_the_control_latents(
    project: TinyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]] = []
    evaluated: list[int] = []
    plain, loss = EditFlux1.predict, Evaluator._loss

    def predict(self: EditFlux1, denoiser: Any, noisy: Any, timesteps: Any, given: Conditioning) -> Any:
        seen.append((tuple(noisy.shape), tuple(tuple(one.shape) for one in given.controls)))
        return plain(self, denoiser, noisy, timesteps, given)

    def held_out(self: Evaluator, denoiser: Any, batch: Any) -> Any:
        evaluated.extend(len(sample.controls) for sample, _ in batch)
        return loss(self, denoiser, batch)

    monkeypatch.setattr(EditFlux1, "predict", predict)
    monkeypatch.setattr(Evaluator, "_loss", held_out)
    project.run("train.seed=8", until="metrics")
    assert seen and all(len(controls) == 1 and controls[0][0] == noisy[0] for noisy, controls in seen)
    # 64x64, 96x64 and 64x96 pictures are encoded in 48x48, 48x32 and 32x48: six by four at most.
    assert {controls[0][-2:] for _, controls in seen} <= {(6, 6), (4, 6), (6, 4)}
    assert evaluated and set(evaluated) == {1}


@pytest.mark.setting("datasets.control_path")
def test_weights_depend_on_the_control_pictures(project: TinyProject) -> None:
    before = project.run(until="lora_checkpoint")["lora_checkpoint"].data_version
    for number in range(6):
        draw_picture(control(project, number), seed=number, size=(64, 64))
    assert project.run(until="lora_checkpoint")["lora_checkpoint"].data_version != before


def test_a_caption_is_rendered_as_an_edit_of_its_control_picture(project: TinyProject, sees: bool) -> None:
    from diffusers import FluxKontextPipeline

    result = project.run()["samples"]
    assert result.published.metadata["prompts"][0] == "a small picture of number 4"
    pipeline = FluxKontextPipeline.from_pretrained(project.base)
    pipeline.set_progress_bar_config(disable=True)
    with Image.open(control(project, 4)) as opened:
        shown = opened.convert("RGB").resize((32, 32))
    theirs = pipeline(
        image=shown,
        prompt="a small picture of number 4",
        num_inference_steps=2,
        guidance_scale=5.0,
        width=64,
        height=64,
        max_area=64 * 64,
        _auto_resize=False,
        generator=torch.Generator().manual_seed(3),
    ).images[0]
    with Image.open(result.published.path / "pictures" / "base" / "00.png") as ours:
        # The order of float32 sums may move a number by one level, as weights lie at other addresses.
        assert distance(ours, theirs) <= 1
    with Image.open(project.lora.parent / "samples.png") as grid:
        assert grid.size == layout((64, 64), 3, 4).size


def test_one_caption_of_several_control_pictures_is_rendered_for_each(project: TinyProject) -> None:
    for number in range(6):
        (project.pictures / f"{number:03d}.txt").write_text("make it winter")
    session = run.open_session(project.config)
    try:
        chosen = chosen_prompts((), (), session.workspace)
    finally:
        session.close()
    assert chosen.texts == ("make it winter",) * 4
    assert len({files[0][1] for files in chosen.controls}) == 4


@pytest.mark.setting("sample.control_paths")
def test_an_edited_control_picture_of_a_prompt_renders_again_and_trains_nothing(project: TinyProject) -> None:
    picture = project.folder / "mine.png"
    draw_picture(picture, seed=1, size=(64, 64))
    own = ("sample.prompts=[a hat, a coat]", f"sample.control_paths=[{picture}, []]")
    assert computed(project.run(*own)).keys() == {"samples"}
    picture.touch()
    assert set(statuses(project.plan(*own)).values()) == {"fresh"}
    picture.rename(picture.with_stem("yours"))
    renamed = (own[0], f"sample.control_paths=[{picture.with_stem('yours')}, []]")
    assert set(statuses(project.plan(*renamed)).values()) == {"fresh"}
    draw_picture(picture.with_stem("yours"), seed=2, size=(64, 64))
    plans = project.plan(*renamed)
    assert {name for name, status in statuses(plans).items() if status != "fresh"} == {"samples"}
    assert plans["samples"].reasons == ("control pictures changed",)


@pytest.mark.setting("gate.control_paths")
def test_the_gate_examines_edits_of_its_own_pictures(project: TinyProject, monkeypatch: pytest.MonkeyPatch) -> None:
    (project.folder / "judge.py").write_text(JUDGE)
    monkeypatch.chdir(project.folder)
    for number, name in enumerate(("a.png", "b.png")):
        draw_picture(project.folder / name, seed=number, size=(32, 32))
    asked: list[bytes] = []
    plain = EditFlux1.pipeline_inputs

    def inputs(self: EditFlux1, pipeline: Any, prompt: str, negative_prompt: str, controls: Any) -> dict[str, Any]:
        asked.extend(one.tobytes() for one in controls)
        return plain(self, pipeline, prompt, negative_prompt, controls)

    monkeypatch.setattr(EditFlux1, "pipeline_inputs", inputs)
    gate = (*GATE, "gate.control_paths=[a.png, b.png]")
    result = project.run(*gate)
    assert computed(result).keys() == {"metrics"}
    assert len(asked) == 4 and len(set(asked)) == 2
    assert {"concept_score_base", "following_lora", "diversity_lora"} <= set(result["metrics"].published.metadata)
    draw_picture(project.folder / "b.png", seed=9, size=(32, 32))
    plans = project.plan(*gate)
    assert {name for name, status in statuses(plans).items() if status != "fresh"} == {"metrics"}


def test_an_entry_names_the_variant_where_the_text_differs_by_it(project: TinyProject) -> None:
    session = run.open_session(project.config)
    try:
        assert session.workspace.family.spec.identity == "flux1 edit"
        items = read_items(session.workspace.store.objects.get("cached_text_embeddings", _key(session)))  # type: ignore[arg-type]
        parts: Any = items["pictures/000.png"]["parts"]
        assert parts["encoder"] == "flux1 edit 1"
    finally:
        session.close()


def _key(session: run.Session) -> str:
    return str(session.workspace.store.refs.get("tiny", "cached_text_embeddings"))


def test_the_command_line_renders_prompts_as_edits_of_one_picture(
    project: TinyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []
    plain = EditFlux1.pipeline_inputs

    def inputs(self: EditFlux1, pipeline: Any, prompt: str, negative_prompt: str, controls: Any) -> dict[str, Any]:
        asked.append((prompt, len(controls)))
        return plain(self, pipeline, prompt, negative_prompt, controls)

    monkeypatch.setattr(EditFlux1, "pipeline_inputs", inputs)
    given = ("--prompt", "a hat", "--prompt", "a coat", "--control", control(project, 1), "--json")
    result = call("sample", project.config, *given)
    assert result.exit_code == 0, result.output
    assert asked == [("a hat", 1), ("a coat", 1)] * 2
    with Image.open(told(result)["path"]) as grid:
        assert grid.size == layout((64, 64), 3, 2).size


@pytest.mark.parametrize("count", [0, 3])
def test_the_command_line_refuses_as_many_control_pictures_as_the_family_does_not_take(
    project: TinyProject, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    use(monkeypatch, edit_family(most=2, required=True))
    named = [part for number in range(count) for part in ("--control", control(project, number))]
    result = call("sample", project.config, "--prompt", "a hat", *named)
    assert result.exit_code == 2
    assert "--control: Edit FLUX.1" in result.stderr


def test_check_counts_the_pairs(project: TinyProject) -> None:
    shutil.copy(control(project, 0), control(project, 1))
    result = call("check", project.config)
    assert result.exit_code == 0, result.output
    assert "6 of them are edits of control pictures, of which 5 are different" in result.output


def test_verify_gives_a_model_that_only_edits_a_picture_of_its_own(
    project: TinyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, edit_family(required=True))
    asked: list[int] = []
    plain = EditFlux1.pipeline_inputs

    def inputs(self: EditFlux1, pipeline: Any, prompt: str, negative_prompt: str, controls: Any) -> dict[str, Any]:
        asked.append(len(controls))
        return plain(self, pipeline, prompt, negative_prompt, controls)

    monkeypatch.setattr(EditFlux1, "pipeline_inputs", inputs)
    result = call("verify", project.lora, "--base", project.base, "--json")
    assert told(result)["changes_picture"] is True
    assert asked == [1, 1]
