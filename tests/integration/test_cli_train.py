"""The command line on a real, tiny model: train once, then look at it from all sides."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from tests.unit.cli import support
from tests.unit.cli.support import Project, make_project, run, told, write_picture
from trainer_core.export.card.facts import is_picture_name

STAGES = ["validated_dataset", "cached_latents", "cached_text_embeddings", "lora_checkpoint", "samples", "metrics"]
STAGE_KEYS = {"name", "action", "items_computed", "items_reused", "seconds", "data_version"}


@pytest.fixture(scope="module")
def base(tiny_bases: dict[str, Path]) -> Path:
    return tiny_bases["sd15"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, base: Path) -> tuple[Project, Any]:
    """A project that was trained by the command line, and what that printed."""
    project = make_project(tmp_path_factory.mktemp("project"), base)
    done = run("train", "cats", "--json", cwd=project.root)
    assert done.returncode == 0, done.stderr
    return project, json.loads(done.stdout)


@pytest.fixture
def copied(trained: tuple[Project, Any], tmp_path: Path) -> Iterator[Project]:
    """The trained project, to be broken; its pictures stay where they are."""
    project, _ = trained
    shutil.copytree(project.root, tmp_path / "copy")
    yield Project(tmp_path / "copy", tmp_path / "copy" / "configs" / "cats.yaml", project.pictures)


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LORA_ASSETS_HOME", raising=False)


def call(project: Project, *arguments: str | Path) -> Result:
    return support.call(*arguments, cwd=project.root)


def stopped(project: Project, *arguments: str, after: str, number: signal.Signals) -> tuple[int, str]:
    """Start a training, send a signal once a line with `after` was told; return the exit code and what came then."""
    with subprocess.Popen(
        [sys.executable, "-m", "trainer_core.cli.main", "train", "cats", *arguments],
        cwd=project.root,
        env={**os.environ, "PYTHONPATH": str(support.ROOT), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stderr is not None
        line = " "
        while after not in line:
            line = process.stderr.readline()
            assert line, "it ended too early"
        process.send_signal(number)
        rest = process.stderr.read()
        return process.wait(timeout=120), rest


def test_train_tells_every_stage_and_the_lora(trained: tuple[Project, Any]) -> None:
    project, answer = trained
    assert set(answer) == {"stages", "lora", "proof", "steps_per_second", "promotion", "rungs"}
    assert [(proof["format"], proof["ok"]) for proof in answer["proof"]] == [("diffusers", True), ("comfyui", True)]
    assert set(answer["promotion"]) == {"promoted", "reasons"}
    assert [stage["name"] for stage in answer["stages"]] == STAGES
    assert all(set(stage) == STAGE_KEYS for stage in answer["stages"])
    assert {stage["action"] for stage in answer["stages"]} == {"computed"}
    path = project.outputs / "cats.safetensors"
    assert answer["lora"] == {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert answer["steps_per_second"] > 0


@pytest.mark.parametrize("command", ["plan", "train"])
def test_nothing_to_do_imports_nothing_heavy(trained: tuple[Project, Any], command: str) -> None:
    heavy = "torch diffusers transformers pandas pyarrow numpy PIL matplotlib rich dagster"
    script = f"print([name for name in '{heavy}'.split() if name in sys.modules])"
    done = run(command, "cats", "--json", python=script, cwd=trained[0].root)
    answer, modules = done.stdout.splitlines()
    assert modules == "[]"
    assert {stage.get("action", stage.get("status")) for stage in json.loads(answer)["stages"]} <= {"reused", "fresh"}


def test_a_second_run_gives_the_same_lora_and_versions(trained: tuple[Project, Any]) -> None:
    project, first = trained
    second = told(call(project, "train", "cats", "--json"))
    assert second["lora"] == first["lora"]
    assert second["steps_per_second"] == first["steps_per_second"]
    assert [stage["data_version"] for stage in second["stages"]] == [stage["data_version"] for stage in first["stages"]]
    assert all(stage["items_computed"] == 0 for stage in second["stages"])


def test_plan_names_the_picture_that_is_new_and_why(copied: Project) -> None:
    pictures = copied.root / "more"
    shutil.copytree(copied.pictures, pictures)
    write_picture(pictures / "new.png", 9)
    (pictures / "new.txt").write_text("a new picture")
    moved = ("--set", f"datasets.0.path={pictures}", "--set", "datasets.0.name=pictures")
    stages = told(call(copied, "plan", "cats", "--json", *moved))["stages"]
    assert [stage["name"] for stage in stages] == STAGES
    assert all(set(stage) == {"name", "status", "reasons", "items"} for stage in stages)
    latents = stages[1]
    assert (latents["status"], latents["items"]["total"], latents["items"]["stale"]) == ("stale", 5, 1)
    assert latents["items"]["examples"] == [{"sample": "pictures/new.png", "reason": "new"}]
    text = call(copied, "plan", "cats", *moved).stdout
    assert "1 new: pictures/new.png" in text
    assert "cached_latents will be computed again" in text or "cached_latents changed" in text


def test_plan_draws_the_learning_rate_and_gives_its_points(trained: tuple[Project, Any]) -> None:
    cosine = ("--set", "schedule.name=cosine", "--set", "schedule.warmup_steps=2")
    schedule = told(call(trained[0], "plan", "cats", "--json", *cosine))["schedule"]
    assert (schedule["name"], schedule["peak"], schedule["warmup_steps"], schedule["steps"]) == ("cosine", 0.05, 2, 4)
    assert schedule["points"] == [[1, 0.025], [2, 0.05], [3, 0.05], [4, pytest.approx(0.025)]]
    shown = call(trained[0], "plan", "cats", *cosine).stdout
    assert "learning rate: cosine, peak 0.05 after 2 warm-up steps" in shown


def test_plan_says_which_setting_changed(trained: tuple[Project, Any]) -> None:
    done = call(trained[0], "plan", "cats", "--set", "optimizer.lr=0.01")
    assert "optimizer.lr: 0.05 -> 0.01" in done.stdout
    assert "fresh" in done.stdout


def test_until_stops_before_the_lora(trained: tuple[Project, Any]) -> None:
    answer = told(call(trained[0], "train", "cats", "--until", "cached_latents", "--json"))
    assert [stage["name"] for stage in answer["stages"]] == ["validated_dataset", "cached_latents"]
    assert answer["lora"] is None
    assert answer["steps_per_second"] is None


def test_an_unknown_stage_is_wrong_usage(trained: tuple[Project, Any]) -> None:
    done = call(trained[0], "train", "cats", "--until", "lora")
    assert done.exit_code == 2
    assert "lora_checkpoint" in done.stderr
    assert "Traceback" not in done.stderr


def test_people_get_a_table_and_the_lora_and_plain_lines(trained: tuple[Project, Any]) -> None:
    project, answer = trained
    done = call(project, "train", "cats")
    assert done.exit_code == 0
    assert all(stage in done.stdout for stage in STAGES)
    assert answer["lora"]["path"] in done.stdout
    assert answer["lora"]["sha256"] in done.stdout
    assert "metrics: reused" in done.stderr


def test_check_accepts_a_sound_project(trained: tuple[Project, Any]) -> None:
    done = call(trained[0], "check", "cats", "--json")
    assert done.exit_code == 0
    answer = told(done)
    assert answer["dataset"] == {"found": 4, "used": 4, "excluded": []}
    numbers = answer["arithmetic"]
    assert (numbers["images"], numbers["repeats"], numbers["steps"]) == (3, 1, 4)
    assert numbers["epochs"] == pytest.approx(4 / 3)


def test_verify_accepts_what_was_published_and_the_whole_home(trained: tuple[Project, Any]) -> None:
    project, answer = trained
    for target in (answer["lora"]["path"], project.outputs, project.home, project.home / "store"):
        done = call(project, "verify", target, "--json")
        assert done.exit_code == 0, done.stdout + done.stderr
        assert told(done)["ok"] is True


def test_a_lone_lora_is_verified_by_what_it_carries(trained: tuple[Project, Any], tmp_path: Path) -> None:
    project, answer = trained
    lone = tmp_path / "lone.safetensors"
    shutil.copyfile(answer["lora"]["path"], lone)
    assert told(call(project, "verify", lone, "--json"))["ok"] is True
    data = bytearray(lone.read_bytes())
    data[-5] ^= 1
    lone.write_bytes(data)
    done = call(project, "verify", lone, "--json")
    assert done.exit_code == 1
    assert told(done)["ok"] is False


def test_a_lora_that_was_exchanged_with_its_checksum_is_found(copied: Project) -> None:
    path = copied.outputs / "cats.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    line = f"{hashlib.sha256(data).hexdigest()}  {path.name}\n"
    (copied.outputs / "checksums.sha256").write_text(line)
    done = call(copied, "verify", path, "--json")
    assert done.exit_code == 1
    (row,) = told(done)["files"]
    assert row["path"] == str(path)
    assert row["expected"] != row["actual"]


def test_verify_with_a_base_shows_that_the_picture_changes(trained: tuple[Project, Any], base: Path) -> None:
    project, answer = trained
    done = call(project, "verify", answer["lora"]["path"], "--base", base, "--json")
    assert done.exit_code == 0, done.stderr
    assert told(done)["changes_picture"] is True


def test_a_lora_of_zeros_changes_nothing_and_fails(trained: tuple[Project, Any], base: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    from trainer_core.export.safetensors_file import serialize, tensors_sha256

    project, answer = trained
    zeros = {name: torch.zeros_like(tensor) for name, tensor in load_file(answer["lora"]["path"]).items()}
    path = tmp_path / "zeros.safetensors"
    path.write_bytes(serialize(zeros, {"lora_assets.weights_sha256": tensors_sha256(zeros)}))
    done = call(project, "verify", path, "--base", base, "--json")
    assert done.exit_code == 1
    assert told(done) | {"files": []} == {"ok": True, "files": [], "changes_picture": False}


def test_sample_publishes_the_projects_own_pictures(trained: tuple[Project, Any]) -> None:
    project, _ = trained
    answer = told(call(project, "sample", "cats", "--json"))
    assert set(answer) == {"path", "prompts", "changes_picture"}
    assert answer["path"] == str(project.outputs / "samples.png")
    assert answer["changes_picture"] is True


def test_sample_renders_prompts_without_publishing(copied: Project) -> None:
    before = (copied.outputs / "checksums.sha256").read_text()
    wish = ("sample", "cats", "--prompt", "a [red] thing", "--prompt", "another", "--seed", "3", "--json")
    first, second = told(call(copied, *wish)), told(call(copied, *wish))
    assert first["path"] == str(copied.outputs / "prompts-1.png")
    assert second["path"] == str(copied.outputs / "prompts-2.png")
    assert first["prompts"] == ["a [red] thing", "another"]
    assert Path(first["path"]).read_bytes() == Path(second["path"]).read_bytes()
    assert (copied.outputs / "checksums.sha256").read_text() == before
    assert not is_picture_name("prompts-1.png"), "the stage samples deletes pictures of its own that are out of date"


def test_sample_writes_where_it_is_told_to(trained: tuple[Project, Any], tmp_path: Path) -> None:
    target = tmp_path / "deep" / "grid.png"
    done = call(trained[0], "sample", "cats", "--prompt", "x", "--out", target)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.strip() == str(target)
    assert target.read_bytes().startswith(b"\x89PNG")


def test_sample_before_training_says_what_to_do(base: Path, tmp_path: Path) -> None:
    project = make_project(tmp_path, base)
    done = call(project, "sample", "cats", "--prompt", "x")
    assert done.exit_code == 1
    assert "lora-assets train" in done.stderr
    assert call(project, "sample", "cats", "--seed", "3").exit_code == 2


def test_gc_keeps_all_that_the_project_needs(copied: Project) -> None:
    assert call(copied, "gc", "cats").exit_code == 0
    answer = told(call(copied, "train", "cats", "--json"))
    assert {stage["action"] for stage in answer["stages"]} == {"reused"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_training_is_130_and_goes_on_from_there(copied: Project, number: signal.Signals) -> None:
    # The loop looks for signals between steps: there have to be some left when the first one is told.
    settings = ("train.steps=60", "train.seed=7", "train.checkpoint_every=0")
    longer = ("--until", "lora_checkpoint", *(word for setting in settings for word in ("--set", setting)))
    code, rest = stopped(copied, *longer, after="lora_checkpoint: 1/60", number=number)
    assert code == 130, rest
    assert "state saved" in rest
    assert "Traceback" not in rest
    stage = told(call(copied, "train", "cats", *longer, "--json"))["stages"][-1]
    assert 0 < stage["items_computed"] < 60
    assert stage["items_computed"] + stage["items_reused"] == 60


def test_a_stop_outside_training_is_130_without_a_traceback(base: Path, tmp_path: Path) -> None:
    project = make_project(tmp_path, base)
    code, rest = stopped(project, after="validated_dataset: computed", number=signal.SIGTERM)
    assert code == 130, rest
    assert "interrupted" in rest
    assert "Traceback" not in rest
