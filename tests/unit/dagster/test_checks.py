"""What the checks say of good and bad results."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dagster import AssetCheckSeverity

from lora_assets.assets import dataset
from lora_assets.assets.checkpoint import LORA_CHECKPOINT
from lora_assets.assets.dataset import VALIDATED_DATASET
from lora_assets.assets.entries import VALUES_ARE_FINITE
from lora_assets.assets.metrics import METRICS
from lora_assets.assets.samples import SAMPLES
from lora_assets.assets.stage import Verdict
from trainer_core.config.groups import OptimizerConfig, ScheduleConfig
from trainer_core.data.epoch.run_length import DatasetShare, RunLength
from trainer_core.types import Finding


def judge(
    check: Any, metadata: dict[str, Any], folder: Path = Path(), computed: int = 0, entries: Any = None
) -> Verdict:
    published = SimpleNamespace(metadata=metadata, file=lambda name: folder / name, path=folder)
    result = SimpleNamespace(published=published, items_computed=computed)
    session = SimpleNamespace(workspace=SimpleNamespace(store=SimpleNamespace(entries=entries)))
    return check.run(SimpleNamespace(session=session, result=result))


def settled(promoted: bool, held_out: int = 2) -> Verdict:
    published = SimpleNamespace(metadata={"held_out_samples": held_out})
    decision = {
        "promoted": promoted,
        "reasons": ["its held-out loss is too high"] if not promoted else ["it is the champion"],
    }
    return METRICS.check.run(
        SimpleNamespace(session=None, result=SimpleNamespace(published=published, settled=decision))
    )


def test_a_promoted_lora_passes() -> None:
    assert settled(True).passed


def test_a_lora_that_is_not_promoted_fails_with_its_reasons() -> None:
    verdict = settled(False)
    assert not verdict.passed and verdict.severity == AssetCheckSeverity.ERROR
    assert "its held-out loss is too high" in verdict.description


def test_nothing_held_out_is_a_warning() -> None:
    verdict = settled(True, held_out=0)
    assert not verdict.passed and verdict.severity == AssetCheckSeverity.WARN


def test_a_lora_without_effect_is_a_warning() -> None:
    verdict = judge(SAMPLES.check, {"lora_changes_picture": False})
    assert not verdict.passed and verdict.severity == AssetCheckSeverity.WARN


@pytest.mark.parametrize(("used", "passes"), [(3, True), (2, False)])
def test_the_ledger_is_counted_as_written(tmp_path: Path, used: int, passes: bool) -> None:
    (tmp_path / "ledger.csv").write_text('path,cause,reason\na.png,tiny,"too\nsmall"\nb.png,broken,cut short\n')
    verdict = judge(VALIDATED_DATASET.check, {"found": 5, "used": used}, tmp_path)
    assert verdict.passed is passes
    assert "too small" in str(verdict.metadata["ledger"].value)


def test_a_dataset_that_was_validated_before_there_were_contact_sheets_is_shown_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = SimpleNamespace(total=0, samples=(), excluded=(), findings=())
    length = RunLength(10, 50, 13, 4, 2, 1, 65, (DatasetShare("cats", 10, 50, 1.0),))
    project = SimpleNamespace(schedule=ScheduleConfig(name="cosine"), optimizer=OptimizerConfig())
    warning = Finding("warning", "adapter.rank", "is 300.", "Try 32.")
    monkeypatch.setattr(dataset, "warnings", lambda session: (warning,))
    monkeypatch.setattr(dataset, "caption_findings", lambda session: ())
    workspace = SimpleNamespace(manifest=manifest, outputs=tmp_path)
    session = SimpleNamespace(workspace=workspace, length=length, project=project)
    published = SimpleNamespace(metadata={"statistics": {}}, files={"ledger.csv": None}, path=tmp_path)
    finished: Any = SimpleNamespace(session=session, result=SimpleNamespace(published=published))
    shown = VALIDATED_DATASET.describe(finished)
    assert "contact_sheet" not in shown
    assert "65 steps = 10.00 epochs" in str(shown["arithmetic"].value) and shown["steps"].value == 65
    assert "| cats | 10 | 5 | 50 | 100.0% |" in str(shown["epoch"].value)
    assert "learning rate: cosine" in str(shown["learning_rate"].value)
    assert "adapter.rank" in str(shown["findings"].value)


class Entries:
    def __init__(self, missing: set[str], bad: set[str]) -> None:
        self.missing, self.bad, self.read_keys = missing, bad, list[str]()

    def present(self, keys: Any) -> set[str]:
        return set(keys) - self.missing

    def read(self, keys: list[str]) -> dict[str, Any]:
        import torch

        self.read_keys = keys
        return {key: {"latents": torch.full((2,), float("nan") if key in self.bad else 1.0)} for key in keys}


def keys_file(folder: Path, count: int) -> None:
    import json

    items = {f"s{number}": {"key": f"{number:04d}", "parts": {}} for number in range(count)}
    (folder / "items.json").write_text(json.dumps(items))


@pytest.mark.parametrize(
    ("missing", "bad", "passes"), [(set(), set(), True), ({"0001"}, set(), False), (set(), {"0002"}, False)]
)
def test_missing_and_non_finite_entries_fail(tmp_path: Path, missing: set[str], bad: set[str], passes: bool) -> None:
    keys_file(tmp_path, 3)
    assert judge(VALUES_ARE_FINITE, {}, tmp_path, 3, Entries(missing, bad)).passed is passes


def test_only_some_of_many_entries_are_read_again_and_none_when_nothing_was_computed(tmp_path: Path) -> None:
    keys_file(tmp_path, 1000)
    entries = Entries(set(), set())
    judge(VALUES_ARE_FINITE, {}, tmp_path, 5, entries)
    assert 60 <= len(entries.read_keys) <= 70
    entries.read_keys = []
    judge(VALUES_ARE_FINITE, {}, tmp_path, 0, entries)
    assert entries.read_keys == []


@pytest.mark.parametrize(
    ("proven", "passes"),
    [(["lora.safetensors"], False), ([], False), (["lora.safetensors", "lora.kohya.safetensors"], True)],
)
def test_a_lora_file_without_proof_fails(tmp_path: Path, proven: list[str], passes: bool) -> None:
    row = {"format": "kohya", "reader": "diffusers", "modules": 1, "keys": 3, "max_relative_error": 1e-4, "bound": 1e-3}
    rows = [{**row, "file": file, "comfyui_coverage": 1.0, "ok": True} for file in proven]
    (tmp_path / "proof.json").write_text(json.dumps({"files": rows, "ok": True}))
    files = dict.fromkeys(("lora.safetensors", "lora.kohya.safetensors", "loss_curve.png", "proof.json"))
    published = SimpleNamespace(file=lambda name: tmp_path / name, files=files)
    (check,) = LORA_CHECKPOINT.more_checks
    finished: Any = SimpleNamespace(session=None, result=SimpleNamespace(published=published))
    verdict = check.run(finished)
    assert verdict.passed is passes
    files["saves/step-00000002/lora.safetensors"] = None
    assert not check.run(finished).passed, "a file of a step on the way needs its proof too"
    assert passes or "lora.kohya.safetensors" in verdict.description
    assert (check.name, check.blocking) == ("export_proven", True)
