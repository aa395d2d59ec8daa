from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.cli.support import Project, call, run, told
from trainer_core.cli.commands.check import RunLength

KEYS = {"findings", "dataset", "arithmetic", "memory"}
NUMBERS = {"images", "repeats", "batch_size", "gradient_accumulation", "epochs", "steps", "processes"} | {
    *("draws_per_epoch", "batches_per_epoch", "steps_per_epoch", "ideal_steps_per_epoch", "datasets"),
}


def errors(answer: Any) -> set[str]:
    return {finding["field"] for finding in answer["findings"] if finding["level"] == "error"}


def test_json_has_exactly_the_keys_that_programs_rely_on(project: Project) -> None:
    answer = told(call("check", "cats", "--json"))
    assert set(answer) == KEYS
    assert set(answer["arithmetic"]) == NUMBERS
    assert set(answer["dataset"]) == {"found", "used", "excluded"}
    assert all(set(finding) == {"level", "field", "message", "fix"} for finding in answer["findings"])


def test_a_missing_base_model_is_a_finding_and_the_dataset_is_still_checked(project: Project) -> None:
    result = call("check", "cats", "--json")
    assert result.exit_code == 2
    answer = told(result)
    assert errors(answer) == {"model.path"}
    assert answer["dataset"]["found"] == 4


def test_everything_wrong_is_told_at_once(project: Project) -> None:
    (project.pictures / "00.txt").unlink()
    settings = ("hardware.profile=toaster", "adapter.targets='(['", "bucket.max_side=16")
    answer = told(call("check", "cats", "--json", *(part for value in settings for part in ("--set", value))))
    assert {"model.path", "hardware.profile", "adapter.targets", "bucket.max_side"} <= errors(answer)


def test_an_invalid_config_is_json_on_stdout_and_exit_code_2(project: Project) -> None:
    result = call("check", "cats", "--json", "--set", "train.steps=many", "--set", "train.stps=3")
    assert result.exit_code == 2
    answer = told(result)
    assert errors(answer) == {"train.steps", "train.stps"}
    assert answer["dataset"] == {"found": 0, "used": 0, "excluded": []}
    assert answer["arithmetic"] == dict.fromkeys(NUMBERS)


def test_an_unknown_project_is_a_finding_too(project: Project) -> None:
    result = call("check", "dogs", "--json")
    assert result.exit_code == 2
    assert errors(told(result)) == {"dogs"}


def test_an_unknown_family_is_a_finding_of_its_field(project: Project) -> None:
    answer = told(call("check", "cats", "--json", "--set", "model.family=sd51"))
    assert errors(answer) == {"model.family"}
    assert "sd15" in answer["findings"][0]["message"]


def test_found_is_used_plus_excluded_and_every_exclusion_has_its_reason(project: Project) -> None:
    (project.pictures / "broken.png").write_bytes(b"\x89PNG not really")
    (project.pictures / "broken.txt").write_text("a broken picture")
    dataset = told(call("check", "cats", "--json"))["dataset"]
    assert dataset["found"] == dataset["used"] + len(dataset["excluded"]) == 5
    (gone,) = dataset["excluded"]
    assert set(gone) == {"path", "reason"}
    assert gone["path"] == "pictures/broken.png"
    assert gone["reason"]


def test_an_empty_dataset_is_a_finding_not_a_crash(project: Project) -> None:
    for file in project.pictures.iterdir():
        file.unlink()
    result = call("check", "cats", "--json")
    assert result.exit_code == 2
    assert "datasets" in errors(told(result))


def test_people_are_told_ledger_buckets_and_arithmetic(project: Project) -> None:
    (project.pictures / "broken.png").write_bytes(b"\x89PNG not really")
    (project.pictures / "broken.txt").write_text("a broken picture")
    text = call("check", "cats", "--set", "train.batch_size=2").stdout
    assert "5 pictures found = 4 used + 1 excluded" in text
    assert "pictures/broken.png" in text
    assert "64x64" in text
    assert "3 training images x 1 repeats / (batch 2 x 1 accumulated x 1 process) = 2 steps per epoch" in text
    assert "4 steps = 2.00 epochs" in text
    assert "Not ready to train" in text


def test_check_json_imports_neither_torch_nor_pandas(project: Project) -> None:
    script = "print([name for name in ('torch', 'pandas', 'diffusers', 'rich') if name in sys.modules])"
    done = run("check", "cats", "--json", python=script, cwd=project.root)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize(("draws", "repeats"), [(30, 3), (25, 2.5), (10, 1)])
def test_repeats_are_whole_where_they_are_whole(draws: int, repeats: float) -> None:
    found = RunLength(10, draws, draws, 1, 1, 1, 100).repeats
    assert (found, type(found)) == (repeats, type(repeats))


@given(
    batches=st.integers(1, 500), accumulation=st.integers(1, 8), processes=st.integers(1, 4), steps=st.integers(1, 9999)
)
def test_steps_are_epochs_times_steps_per_epoch(batches: int, accumulation: int, processes: int, steps: int) -> None:
    found = RunLength(7, 7, batches, 1, accumulation, processes, steps)
    assert found.epochs * found.steps_per_epoch == pytest.approx(steps)
    # Every epoch takes all its micro-batches, whatever they are grouped into.
    assert found.epochs * batches == pytest.approx(steps * accumulation * processes)


@pytest.mark.parametrize(
    ("captions", "settings", "warned"),
    [
        ([""] * 4, (), True),
        ([""] * 4, ("caption.trigger_word=zorbling",), False),
        ([""] * 4, ("datasets.0.trigger_word=zorbling",), False),
        (["a red cat", "", "", ""], (), False),
        (["lines in ink", "a house at night", "two boats", "portrait"], (), False),
    ],
)
def test_only_pictures_without_any_word_are_told_that_nothing_calls_the_concept(
    project: Project, captions: list[str], settings: tuple[str, ...], warned: bool
) -> None:
    for path, caption in zip(sorted(project.pictures.glob("*.txt")), captions, strict=True):
        path.write_text(caption)
    given = ("caption.missing=empty", *settings)
    answer = told(call("check", "cats", "--json", *(part for one in given for part in ("--set", one))))
    found = [one for one in answer["findings"] if one["field"] == "caption.trigger_word"]
    assert [one["level"] for one in found] == (["warning"] if warned else [])
    assert all("no word stands for what is trained" in one["message"] for one in found)


def test_pictures_that_the_trigger_word_stands_for_are_not_said_to_have_an_empty_caption(project: Project) -> None:
    for path in project.pictures.glob("*.txt"):
        path.write_text("")
    given = ("--set", "caption.missing=empty", "--set", "caption.trigger_word=zorbling")
    (found,) = (
        one for one in told(call("check", "cats", "--json", *given))["findings"] if one["field"] == "caption.missing"
    )
    assert found["level"] == "info"
    assert "4 pictures without a caption: trained on the trigger word, prefix and suffix alone" in found["message"]


def test_errors_come_after_the_tables(project: Project) -> None:
    printed = call("check", "cats").stdout
    assert printed.index("4 pictures found") < printed.index("error: model.path") < printed.index("Not ready to train")
