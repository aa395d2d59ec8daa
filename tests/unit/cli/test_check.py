from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.cli.support import Project, call, run, told
from trainer_core.cli.commands.check import RunLength

KEYS = {"findings", "dataset", "arithmetic"}
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
