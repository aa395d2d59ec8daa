"""Captions that a text encoder cuts are told, with the samples and the words that are lost, before training."""

from __future__ import annotations

import json

import pytest

from tests.projects import NewProject, TinyProject
from trainer_core import run
from trainer_core.stages.preflight import truncation
from trainer_core.stages.preflight.findings import caption_findings
from trainer_core.types import Finding

LONG = " ".join("abcdefghij"[number % 10] for number in range(90)) + " and the last words"


def findings(project: TinyProject, *settings: str) -> list[Finding]:
    session = run.open_session(project.config, settings)
    try:
        return list(caption_findings(session))
    finally:
        session.close()


@pytest.fixture
def project(new_project: NewProject) -> TinyProject:
    made = new_project("sd15")
    (made.pictures / "002.txt").write_text(f"{LONG}\n")
    return made


@pytest.mark.setting("text.clip_tokens")
def test_a_cut_caption_is_named_with_its_tokens_and_the_words_it_loses(project: TinyProject) -> None:
    (found,) = findings(project)
    assert (found.level, found.field) == ("warning", "datasets")
    # 90 letters, and 15 more, as the tiny tokenizer knows no words
    assert "CLIP reads 75 tokens of a caption and cuts 1 of 8 captions (8 samples)" in found.message
    assert "pictures/002.png (105 tokens, lost from 'f g h i j" in found.message
    assert found.fix == "Set text.clip_tokens to 150, or shorten them."
    assert findings(project, "text.clip_tokens=150") == []


def test_a_caption_is_counted_once_and_a_tokenizer_is_not_loaded_for_a_short_one(
    project: TinyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = findings(project)
    loads: list[str] = []
    real = truncation.load_tokenizer
    monkeypatch.setattr(truncation, "load_tokenizer", lambda source, name: (loads.append(name), real(source, name))[1])
    assert findings(project) == first
    (project.pictures / "003.txt").write_text("a few words\n")
    assert findings(project) == first
    assert loads == []
    (project.pictures / "004.txt").write_text(f"{LONG} of another one\n")
    assert len(findings(project)) == 1
    assert loads == ["tokenizer"]


def test_another_tokenizer_counts_anew(project: TinyProject) -> None:
    assert findings(project)
    file = project.base / "tokenizer" / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"note": "another"}))
    assert findings(project)


def test_check_and_plan_tell_of_cut_captions(project: TinyProject, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.unit.cli.support import call, told

    monkeypatch.chdir(project.folder)
    config = str(project.config)
    for command in ("check", "plan"):
        answer = told(call(command, config, "--json"))
        assert any("pictures/002.png (105 tokens" in one["message"] for one in answer["findings"]), command


@pytest.mark.setting("text.max_length")
def test_a_family_with_a_length_to_choose_is_told_of_by_that_length(new_project: NewProject) -> None:
    made = new_project("flux1")
    (made.pictures / "002.txt").write_text(f"{LONG}\n")
    assert findings(made) == []
    (found,) = findings(made, "text.max_length=64")
    assert "T5 reads 63 tokens" in found.message
    assert found.fix == "Raise text.max_length, or shorten them."
