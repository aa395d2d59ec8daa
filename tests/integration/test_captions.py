"""Captions that differ from draw to draw, from folder to LoRA: what is encoded, what is stale, and exact resuming."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.control_family import edit_family, make_pairs, use
from tests.projects import TinyProject, computed, make_project, statuses
from tests.unit.cli.support import call, told
from trainer_core import run
from trainer_core.errors import Interrupted
from trainer_core.stages.caching.entries import EMPTY, class_id, empty_id, text_id
from trainer_core.store.keys import digest
from trainer_core.types import ProgressEvent

SHUFFLE = ("tags.shuffle=true", "tags.keep_tokens=1", "caption.variants=3")
EVERYTHING = (
    *("tags.shuffle=true", "tags.dropout=0.2", "caption.wildcards=true", "caption.multiline=random"),
    *("caption.dropout=0.3", "caption.trigger_word=sks", "train.steps=7", "train.checkpoint_every=3"),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_bases: dict[str, Path]) -> Path:
    project = make_project(tmp_path_factory.mktemp("captions") / "project", tiny_bases["sd15"], pictures=6)
    for path in project.pictures.glob("*.txt"):
        number = int(path.stem)
        path.write_text(f"picture {number}, red, {{small|large}}, on {number}\nanother line, of {number}\n")
    project.run(until="lora_checkpoint")
    return project.folder


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> TinyProject:
    return TinyProject(finished).copy(tmp_path / "project")


def lora(project: TinyProject) -> str:
    return hashlib.sha256(project.lora.read_bytes()).hexdigest()


def train(project: TinyProject, *overrides: str) -> dict[str, int]:
    return computed(project.run(*overrides, until="lora_checkpoint"))


def test_without_any_of_it_the_versions_are_what_they_were(project: TinyProject) -> None:
    session = run.open_session(project.config)
    try:
        plans = {plan.name: plan for plan in run.plan(session)}
        from trainer_core.stages import STAGES

        context = STAGES["cached_text_embeddings"].context(session, {})
        ids = [sample.id for sample in session.workspace.manifest.samples]
        assert list(context.items) == ids
        rows = [[name, item.key] for name, item in sorted(context.items.items())]
        assert plans["cached_text_embeddings"].data_version == digest(rows)
    finally:
        session.close()


@pytest.mark.setting("caption.dropout")
def test_dropping_captions_trains_again_and_encodes_the_empty_one_once(project: TinyProject) -> None:
    before = lora(project)
    plans = project.plan("caption.dropout=0.5")
    assert plans["cached_text_embeddings"].stale == ((EMPTY, "new"),)
    assert plans["cached_latents"].status == plans["validated_dataset"].status == "fresh"
    done = train(project, "caption.dropout=0.5")
    assert (done["cached_text_embeddings"], "cached_latents" in done) == (1, False)
    assert lora(project) != before
    plans = project.plan("caption.dropout=0.25")
    assert plans["cached_text_embeddings"].status == "fresh"
    assert plans["lora_checkpoint"].reasons == ("caption.dropout: 0.5 -> 0.25",)
    assert "cached_text_embeddings" not in train(project, "caption.dropout=0.25")


@pytest.mark.setting("caption.dropout_every_n_epochs")
def test_dropping_every_epoch_is_training_on_nothing(project: TinyProject) -> None:
    done = train(project, "caption.dropout_every_n_epochs=1")
    assert done["cached_text_embeddings"] == 1
    assert "cached_text_embeddings" not in train(project, "caption.dropout=1")
    ways = ("caption.dropout_every_n_epochs=1", "caption.dropout=1", "caption.dropout=0.5")
    weights = [project.run(way, until="lora_checkpoint")["lora_checkpoint"].data_version for way in ways]
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.setting("tags.shuffle", "tags.keep_tokens", "caption.variants")
def test_shuffling_encodes_the_new_texts_of_training_pictures_only(project: TinyProject) -> None:
    before = lora(project)
    plans = project.plan(*SHUFFLE)
    text = plans["cached_text_embeddings"]
    session = run.open_session(project.config, SHUFFLE)
    held_out = {one.id for one in session.workspace.manifest.samples if one.split == "held_out"}
    texts = {one.id: one.texts for one in session.workspace.manifest.samples if one.texts}
    captions = {one.id: one.caption for one in session.workspace.manifest.samples}
    session.close()
    assert len(held_out) == 1
    assert len(texts) == 5
    new = sum(len(set(found) - {captions[name]}) for name, found in texts.items())
    assert {reason for _, reason in text.stale} == {"new"}
    assert text.stale_count == new
    assert text_id("pictures/000.png", 1) in {name for name, _ in text.stale}
    assert text.total == 6 + new
    assert plans["validated_dataset"].stale_count == 5
    assert {reason for _, reason in plans["validated_dataset"].stale} == {"texts of the caption changed"}
    done = train(project, *SHUFFLE)
    assert done["cached_text_embeddings"] == new
    assert lora(project) != before


def test_more_variants_encode_the_further_ones_and_an_edit_its_own(project: TinyProject) -> None:
    train(project, *SHUFFLE)
    more = (*SHUFFLE[:2], "caption.variants=5")
    done = train(project, *more)
    assert done["cached_text_embeddings"] == 5 * 2
    (project.pictures / "000.txt").write_text("picture 0, blue, tiny, far, away\n")
    plans = project.plan(*more)["cached_text_embeddings"]
    assert {name.partition(" [")[0] for name, _ in plans.stale} == {"pictures/000.png"}
    assert {reason for _, reason in plans.stale} == {"caption changed"}
    (project.pictures / "001.png").rename(project.pictures / "moved.png")
    (project.pictures / "001.txt").rename(project.pictures / "moved.txt")
    stale = project.plan(*more)["cached_text_embeddings"].stale
    assert {name.partition(" [")[0] for name, _ in stale} == {"pictures/000.png"}


def test_another_seed_draws_from_the_same_texts(project: TinyProject) -> None:
    train(project, *SHUFFLE)
    plans = project.plan(*SHUFFLE, "train.seed=8")
    assert statuses(plans)["cached_text_embeddings"] == "fresh"
    assert plans["lora_checkpoint"].reasons == ("train.seed: 7 -> 8",)


@pytest.mark.setting("caption.wildcards", "caption.multiline", "tags.dropout", "caption.trigger_word")
def test_a_stopped_run_with_all_of_it_ends_with_the_same_file(project: TinyProject, tmp_path: Path) -> None:
    whole = project.copy(tmp_path / "whole")
    train(whole, *EVERYTHING)

    def stop(event: ProgressEvent) -> None:
        if event.stage == "lora_checkpoint" and event.done == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    session = run.open_session(project.config, EVERYTHING, stop)
    with pytest.raises(Interrupted, match="after step 4"):
        run.run_until(session, "lora_checkpoint")
    session.close()
    result = project.run(*EVERYTHING, until="lora_checkpoint")["lora_checkpoint"]
    assert (result.items_computed, result.items_reused) == (3, 4)
    assert lora(project) == lora(whole)
    for without in ("caption.wildcards=false", "caption.multiline=first_line", "tags.dropout=0"):
        assert train(whole, *EVERYTHING, without)["lora_checkpoint"] == 7
        assert lora(whole) != lora(project)


@pytest.mark.setting("loss.preservation_class", "loss.preservation_weight")
def test_class_captions_are_encoded_where_output_is_preserved(project: TinyProject) -> None:
    kept = ("loss.preservation_weight=1", "loss.preservation_class=cat", "caption.trigger_word=picture")
    stale = project.plan(*kept)["cached_text_embeddings"].stale
    names = {name for name, _ in stale}
    assert class_id("pictures/000.png") in names
    assert len(names) == 5
    session = run.open_session(project.config, kept)
    first = session.workspace.manifest.samples[0]
    session.close()
    assert first.class_caption == "cat 0, red, {small|large}, on 0"
    assert train(project, *kept)["cached_text_embeddings"] == 5
    louder = ("loss.preservation_weight=2", *kept[1:])
    assert project.plan(*louder)["cached_text_embeddings"].status == "fresh"
    other = (kept[0], "loss.preservation_class=dog", kept[2])
    assert project.plan(*other)["cached_text_embeddings"].stale_count == 5


@pytest.mark.setting("tags.separator")
def test_the_separator_decides_which_tags_the_file_tells_and_trains_nothing(project: TinyProject) -> None:
    from safetensors import safe_open

    done = train(project, "tags.separator= on ")
    assert done == {"lora_checkpoint": 0}
    with safe_open(project.lora, "pt") as file:
        assert "picture 0, red, {small|large}," in file.metadata()["ss_tag_frequency"]


@pytest.mark.setting("text.cache")
def test_captions_that_are_encoded_batch_by_batch_need_no_list(project: TinyProject) -> None:
    live = (*SHUFFLE, "caption.dropout=0.5", "text.cache=never")
    plan = project.plan(*live)["cached_text_embeddings"]
    assert plan.stale_count == 0
    before = project.plan("text.cache=never")["cached_text_embeddings"].data_version
    assert plan.data_version != before
    assert project.plan(*live, "caption.variants=9")["cached_text_embeddings"].data_version == plan.data_version


def test_check_and_plan_tell_how_many_texts_are_encoded(project: TinyProject) -> None:
    options = [part for one in SHUFFLE for part in ("--set", one)]
    found = told(call("check", str(project.config), "--json", *options))
    (finding,) = (one for one in found["findings"] if one["field"] == "caption.variants")
    assert finding["level"] == "info"
    assert "(shuffled tags): 3 of 6 texts of 5 captions are encoded: 15 different texts, at most" in finding["message"]
    shown = call("plan", str(project.config), *options)
    assert "3 of 6 texts of 5 captions are encoded" in " ".join(shown.output.split())


@pytest.fixture
def seeing(tmp_path: Path, tiny_bases: dict[str, Path]) -> Iterator[TinyProject]:
    with pytest.MonkeyPatch.context() as patch:
        use(patch, edit_family(in_text=True))
        yield make_pairs(tmp_path / "pairs", tiny_bases["flux1"])


@pytest.mark.setting("caption.dropout", "tags.shuffle")
def test_where_the_text_sees_control_pictures_each_text_and_the_empty_one_is_encoded_with_them(
    seeing: TinyProject,
) -> None:
    settings = ("caption.dropout=0.5", "tags.shuffle=true", 'tags.separator=" "', "caption.variants=2")
    session = run.open_session(seeing.config, settings)
    trained = [one.id for one in session.workspace.manifest.samples if one.split == "train"]
    session.close()
    names = {name for name, _ in seeing.plan(*settings)["cached_text_embeddings"].stale}
    assert {empty_id(name) for name in trained} < names
    assert EMPTY not in names
    assert {text_id(name, 1) for name in trained} & names
    assert computed(seeing.run(*settings, until="lora_checkpoint"))["lora_checkpoint"] > 0
