from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from tests.unit.importers.support import import_json, import_text, project_of, status
from trainer_core.config.load import load_project
from trainer_core.importers.core.tool_config import ImportFailed, load
from trainer_core.importers.run import Request, detect, run_import

KOHYA = """
pretrained_model_name_or_path = "base/sdxl"
train_data_dir = "img"
network_module = "networks.lora"
resolution = 512
"""


def test_an_existing_file_is_never_overwritten_unless_forced(tmp_path: Path) -> None:
    config, target = tmp_path / "a.toml", tmp_path / "b.yaml"
    config.write_text(KOHYA, encoding="utf-8")
    target.write_text("mine", encoding="utf-8")
    with pytest.raises(ImportFailed, match="exists already"):
        run_import(Request(config, target))
    assert target.read_text(encoding="utf-8") == "mine"
    run_import(Request(config, target, force=True))
    assert "sdxl" in target.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("gone", "field", "option"),
    [
        ('train_data_dir = "img"\n', "datasets", "--dataset"),
        ('pretrained_model_name_or_path = "base/sdxl"\n', "model.path", "--model"),
    ],
)
def test_nothing_is_written_where_something_needed_is_missing(
    tmp_path: Path, gone: str, field: str, option: str
) -> None:
    with pytest.raises(ImportFailed) as caught:
        import_text(tmp_path, KOHYA.replace(gone, ""))
    fixes = {finding.field: finding.fix for finding in caught.value.findings}
    assert option in fixes[field]
    assert not (tmp_path / "work" / "configs").exists()


def test_relative_paths_start_at_the_yaml_and_missing_ones_are_warnings(tmp_path: Path) -> None:
    (tmp_path / "work" / "img").mkdir(parents=True)
    report = import_text(tmp_path, KOHYA)
    assert "path: ../img" in report.yaml
    assert project_of(tmp_path, report).datasets[0].path == tmp_path / "work" / "img"
    assert not [finding for finding in report.findings if finding.field == "datasets.0.path"]
    gone = import_text(tmp_path, KOHYA.replace('"img"', '"nowhere"'))
    assert [finding.level for finding in gone.findings if finding.field == "datasets.0.path"] == ["warning"]


def test_paths_may_start_at_the_folder_of_the_config(tmp_path: Path) -> None:
    (tmp_path / "there" / "img").mkdir(parents=True)
    config = tmp_path / "there" / "a.toml"
    config.write_text(KOHYA, encoding="utf-8")
    with contextlib.chdir(tmp_path):
        report = run_import(Request(config, Path("out.yaml")))
    assert "path: there/img" in report.yaml


def test_a_value_that_we_do_not_allow_is_left_out_and_told(tmp_path: Path) -> None:
    report = import_text(tmp_path, KOHYA + "keep_tokens = 5000\nmax_grad_norm = -1\n")
    assert status(report, "keep_tokens") == "unsupported"
    assert status(report, "max_grad_norm") == "unsupported"
    assert project_of(tmp_path, report).tags.keep_tokens == 0


def test_unknown_keys_are_told_with_the_nearest_one_and_passwords_hidden(tmp_path: Path) -> None:
    report = import_text(tmp_path, KOHYA + 'netwrk_dim = 4\nmy_api_key = "hunter2"\n')
    (entry,) = [entry for entry in report.entries if entry.key == "netwrk_dim"]
    assert entry.status == "unknown"
    assert "`network_dim`" in entry.note
    assert "hunter2" not in json.dumps(report.as_dict())


def test_the_family_can_be_told(tmp_path: Path) -> None:
    config = tmp_path / "a.toml"
    config.write_text(KOHYA, encoding="utf-8")
    report = run_import(Request(config, tmp_path / "o.yaml", family="sd15"))
    assert (report.family, report.family_detected_by) == ("sd15", "--family")
    with pytest.raises(ImportFailed, match="not a family"):
        run_import(Request(config, tmp_path / "p.yaml", family="sd99"))


def test_a_guessed_family_is_a_warning(tmp_path: Path) -> None:
    report = import_text(tmp_path, KOHYA)
    assert [finding.level for finding in report.findings if finding.field == "model.family"] == ["warning"]


def test_a_config_of_nobody_is_refused_and_can_be_claimed(tmp_path: Path) -> None:
    with pytest.raises(ImportFailed, match="--from"):
        import_json(tmp_path, {"hello": 1})
    with pytest.raises(ImportFailed, match="not a tool"):
        detect({}, "comfyui", Path("a"))
    tool, by = detect({"hello": 1}, "kohya", Path("a"))
    assert (tool.name, by) == ("kohya", "--from")


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    for name, text in (("a.toml", "x = ["), ("b.json", "{"), ("c.yaml", "a: [1"), ("d.txt", "")):
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(ImportFailed, match=name):
            load(tmp_path / name)


def test_an_import_is_the_same_every_time(tmp_path: Path) -> None:
    first = import_text(tmp_path, KOHYA)
    second = import_text(tmp_path, KOHYA)
    assert first.as_dict() == second.as_dict()
    assert first.yaml == second.yaml


PRESETS = {
    "kohya": {"LoRA_type": "Standard", "sdxl": True, "learning_rate": 1e-4, "network_dim": 8, "max_resolution": "1024"},
    "onetrainer": {"training_method": "LORA", "model_type": "STABLE_DIFFUSION_15", "layer_filter_preset": "full"},
    "simpletuner": {"model_type": "lora", "model_family": "sdxl", "lora_rank": 4},
    "ai-toolkit": {"config": {"process": [{"network": {"linear": 4}, "model": {"arch": "sdxl"}}]}},
}


@pytest.mark.parametrize("tool", PRESETS)
def test_a_preset_is_completed_by_a_model_and_a_folder(tmp_path: Path, tool: str) -> None:
    (tmp_path / "img").mkdir()
    config = tmp_path / "preset.json"
    config.write_text(json.dumps(PRESETS[tool]), encoding="utf-8")
    with contextlib.chdir(tmp_path):
        request = Request(config, Path("out.yaml"), dataset=Path("img"), model="owner/base")
        report = run_import(request)
        project = load_project(Path("out.yaml"))
    assert report.tool == tool
    assert (str(project.model.path), project.datasets[0].path) == ("owner/base", tmp_path / "img")
    assert project.datasets[0].held_out == 0


def test_what_the_rules_say_of_the_result_is_told(tmp_path: Path) -> None:
    report = import_text(tmp_path, KOHYA.replace("512", "500"))
    assert "bucket.resolution" in [finding.field for finding in report.findings]


@pytest.mark.parametrize(
    "process", ["text", {"network": {"linear": 4}, "datasets": 3}, {"network": {"linear": 4}, "datasets": [3]}]
)
def test_a_config_of_another_build_is_a_message(tmp_path: Path, process: object) -> None:
    with pytest.raises(ImportFailed, match="not built as"):
        import_json(tmp_path, {"config": {"process": [process]}})


def test_a_value_of_another_form_is_told_and_the_rest_read(tmp_path: Path) -> None:
    report = import_text(tmp_path, KOHYA + 'network_dim = ["many"]\nlr_warmup_steps = "soon"\nseed = 7\n')
    assert status(report, "network_dim") == "unsupported"
    assert status(report, "lr_warmup_steps") == "unsupported"
    assert project_of(tmp_path, report).train.seed == 7
