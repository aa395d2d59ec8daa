from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest

from lora_assets.assets import stage
from lora_assets.projects import configs_folder, discover_projects
from tests.unit.dagster.support import NODES, SETTINGS, STAGES, definitions, write_config
from trainer_core.families import get_family

ROOT = Path(__file__).resolve().parents[3]

GRAPH = {
    "dataset_folder": [],
    "base_model": [],
    "validated_dataset": ["dataset_folder"],
    "cached_latents": ["base_model", "validated_dataset"],
    "cached_text_embeddings": ["base_model", "validated_dataset"],
    "lora_checkpoint": ["base_model", "cached_latents", "cached_text_embeddings"],
    "samples": ["base_model", "lora_checkpoint", "validated_dataset"],
    "metrics": ["base_model", "cached_latents", "cached_text_embeddings", "lora_checkpoint"],
}
KINDS = {
    "dataset_folder": {"file"},
    "base_model": {"diffusers", "safetensors"},
    "validated_dataset": {"python", "pillow"},
    "cached_latents": {"pytorch", "safetensors"},
    "cached_text_embeddings": {"pytorch", "safetensors"},
    "lora_checkpoint": {"pytorch", "safetensors"},
    "samples": {"diffusers"},
    "metrics": {"pytorch"},
}
BLOCKING = {
    "export_proven": True,
    "ledger_adds_up": True,
    "values_are_finite": True,
    "sha256_matches": True,
    "lora_changes_pictures": False,
    "promoted": False,
}


def names(keys: set[dg.AssetKey]) -> list[str]:
    return sorted(key.to_user_string() for key in keys)


def test_the_definitions_load_and_the_graph_is_the_reviewed_one(tmp_path: Path) -> None:
    write_config(tmp_path)
    defs = definitions(tmp_path)
    dg.Definitions.validate_loadable(defs)
    graph = defs.resolve_asset_graph()
    nodes = {key.to_user_string(): graph.get(key) for key in graph.get_all_asset_keys()}
    assert {name: names(node.parent_keys) for name, node in nodes.items()} == {k: sorted(v) for k, v in GRAPH.items()}
    assert {name: node.kinds for name, node in nodes.items()} == KINDS
    assert {node.group_name for node in nodes.values()} == {"default"}
    assert all(node.description for node in nodes.values())
    assert {node.is_observable for name, node in nodes.items() if name not in STAGES} == {True}
    assert all(re.fullmatch(r"\d+-[0-9a-f]{12}", nodes[name].code_version or "") for name in STAGES)


def test_gpu_stages_share_a_pool_and_only_they(tmp_path: Path) -> None:
    write_config(tmp_path)
    assets = [asset for asset in definitions(tmp_path).assets or () if isinstance(asset, dg.AssetsDefinition)]
    pools = {asset.key.to_user_string(): asset.op.pool for asset in assets}
    assert pools == {name: None if name == "validated_dataset" else "gpu" for name in STAGES}


def test_checks_block_where_a_bad_result_must_go_no_further(tmp_path: Path) -> None:
    write_config(tmp_path)
    graph = definitions(tmp_path).resolve_asset_graph()
    found = {key.name: graph.get(key).blocking for key in graph.asset_check_keys}
    assert found == BLOCKING


def test_other_files_are_groups_with_a_prefix(tmp_path: Path) -> None:
    write_config(tmp_path)
    write_config(tmp_path, "red-cat")
    defs = definitions(tmp_path)
    dg.Definitions.validate_loadable(defs)
    graph = defs.resolve_asset_graph()
    groups = {key.to_user_string(): graph.get(key).group_name for key in graph.get_all_asset_keys()}
    assert groups == {name: "default" for name in NODES} | {f"red_cat/{name}": "red_cat" for name in NODES}
    parents = names(graph.get(dg.AssetKey(["red_cat", "cached_latents"])).parent_keys)
    assert parents == ["red_cat/base_model", "red_cat/validated_dataset"]


def test_names_that_dagster_would_merge_stay_apart(tmp_path: Path) -> None:
    for name in ("red-cat", "red_cat", "red.cat"):
        write_config(tmp_path, name)
    groups = [project.group for project in discover_projects(tmp_path / "configs")]
    assert len(set(groups)) == 3
    dg.Definitions.validate_loadable(definitions(tmp_path))


def test_a_broken_file_shows_its_error_and_leaves_the_others_alone(tmp_path: Path) -> None:
    write_config(tmp_path)
    write_config(tmp_path, "broken", SETTINGS.replace("lr: 1e-2", "lr: fast"))
    defs = definitions(tmp_path)
    dg.Definitions.validate_loadable(defs)
    graph = defs.resolve_asset_graph()
    assert dg.AssetKey("lora_checkpoint") in graph.get_all_asset_keys()
    node = graph.get(dg.AssetKey(["broken", "lora_checkpoint"]))
    assert "optimizer.lr" in (node.description or "")
    with dg.DagsterInstance.ephemeral() as instance:
        result = defs.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance, asset_selection=[node.key], raise_on_error=False
        )
    assert not result.success
    failure = result.failure_data_for_node("broken__lora_checkpoint")
    assert failure is not None
    assert "optimizer.lr" in (failure.user_failure_data.description if failure.user_failure_data else "")


def code_versions(root: Path, settings: str) -> dict[str, str | None]:
    write_config(root, settings=settings)
    graph = definitions(root).resolve_asset_graph()
    return {name: graph.get(dg.AssetKey(name)).code_version for name in STAGES}


@pytest.mark.parametrize(
    ("setting", "replacement", "changed"),
    [
        ("lr: 1e-2", "lr: 2e-2", {"lora_checkpoint"}),
        ("steps: 2", "steps: 3", {"samples", "metrics"}),
        ("held_out: 0.2", "held_out: 0.3", {"validated_dataset"}),
        ("path: ../data", "path: ../elsewhere, name: data", set()),
        ("# none", "# a comment", set()),
    ],
)
def test_a_setting_moves_the_code_version_of_the_stages_that_read_it(
    tmp_path: Path, setting: str, replacement: str, changed: set[str]
) -> None:
    before = code_versions(tmp_path, SETTINGS + "# none\n")
    after = code_versions(tmp_path, (SETTINGS + "# none\n").replace(setting, replacement))
    assert {name for name in STAGES if before[name] != after[name]} == changed


BUCKET = "bucket: {resolution: 64, step: 8, min_side: 32, max_side: 128}"
READ_RESOLUTION = {"validated_dataset", "lora_checkpoint", "samples", "metrics"}


@pytest.mark.parametrize(
    ("first", "second", "changed"),
    [
        ("{resolution: 512}", "{resolution: 512, max_side: 1024}", set()),
        ("{}", "{resolution: 0, max_side: 0}", set()),
        ("{max_side: 1024}", "{}", {"validated_dataset"}),
        # 512 is what SD1.5 was trained at, but this base may be another: only a number that is given is certain.
        ("{}", "{resolution: 512}", READ_RESOLUTION),
    ],
)
def test_bucket_sides_that_come_to_the_same_without_the_base_make_one_code_version(
    tmp_path: Path, first: str, second: str, changed: set[str]
) -> None:
    one, other = (code_versions(tmp_path, SETTINGS.replace(BUCKET, f"bucket: {sides}")) for sides in (first, second))
    assert {name for name in STAGES if one[name] != other[name]} == changed


@pytest.mark.parametrize(("bucket", "changed"), [("bucket: {}", READ_RESOLUTION), (BUCKET, set())])
def test_another_default_of_the_family_moves_the_code_version_where_no_resolution_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket: str, changed: set[str]
) -> None:
    settings = SETTINGS.replace(BUCKET, bucket)
    before, spec = code_versions(tmp_path, settings), replace(get_family("sd15").spec, resolution=768)
    monkeypatch.setattr(stage, "get_family", lambda name: SimpleNamespace(spec=spec))
    after = code_versions(tmp_path, settings)
    assert {name for name in STAGES if before[name] != after[name]} == changed


def test_nothing_heavy_is_imported_to_load_the_definitions(tmp_path: Path) -> None:
    write_config(tmp_path)
    heavy = "('torch', 'pandas', 'pyarrow', 'numpy', 'PIL', 'diffusers', 'transformers', 'matplotlib')"
    code = (
        f"import sys, lora_assets.definitions as d; print(len(d.defs.assets), [m for m in {heavy} if m in sys.modules])"
    )
    environment = {**os.environ, "LORA_ASSETS_CONFIGS": str(tmp_path / "configs")}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == f"{len(NODES)} []", done.stderr
    assert "Warning" not in done.stderr


def test_the_configs_folder_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LORA_ASSETS_CONFIGS", raising=False)
    assert configs_folder() == ROOT / "configs"
    monkeypatch.setenv("LORA_ASSETS_CONFIGS", str(tmp_path))
    assert configs_folder() == tmp_path
    assert discover_projects(tmp_path) == []
    dg.Definitions.validate_loadable(definitions(tmp_path))


def test_automation_runs_by_itself_and_the_night_waits_to_be_turned_on(tmp_path: Path) -> None:
    write_config(tmp_path)
    repository = definitions(tmp_path).get_repository_def()
    sensors = {sensor.name: sensor.default_status for sensor in repository.sensor_defs}
    assert sensors == dict.fromkeys(["retrain_when_stale", "default_dataset_folder"], dg.DefaultSensorStatus.RUNNING)
    nightly = repository.get_schedule_def("nightly")
    assert nightly.cron_schedule == "0 3 * * *"
    assert nightly.default_status == dg.DefaultScheduleStatus.STOPPED
    made = repository.get_job(nightly.job_name).asset_layer.selected_asset_keys
    assert {key.to_user_string() for key in made} == set(STAGES)


def test_the_default_project_is_called_by_its_name_and_its_keys_stay_bare(tmp_path: Path) -> None:
    write_config(tmp_path, settings="name: demo\n" + SETTINGS)
    write_config(tmp_path, "red-cat")
    defs = definitions(tmp_path)
    graph = defs.resolve_asset_graph()
    groups = {key.to_user_string(): graph.get(key).group_name for key in graph.get_all_asset_keys()}
    assert groups == {name: "demo" for name in NODES} | {f"red_cat/{name}": "red_cat" for name in NODES}
    repository = defs.get_repository_def()
    assert {sensor.name for sensor in repository.sensor_defs} == {
        "retrain_when_stale",
        "demo_dataset_folder",
        "red_cat_dataset_folder",
    }


def test_two_projects_never_share_a_group(tmp_path: Path) -> None:
    write_config(tmp_path, settings="name: cat\n" + SETTINGS)
    write_config(tmp_path, "cat", settings="name: another\n" + SETTINGS)
    groups = [project.group for project in discover_projects(tmp_path / "configs")]
    assert groups[0] == "cat" and groups[1].startswith("cat_") and len(groups) == 2
    dg.Definitions.validate_loadable(definitions(tmp_path))


def test_assets_are_tagged_with_project_and_family(tmp_path: Path) -> None:
    write_config(tmp_path, settings="name: demo\n" + SETTINGS)
    graph = definitions(tmp_path).resolve_asset_graph()
    expected = {"lora-assets/project": "demo", "lora-assets/family": "sd15"}
    assert all(expected.items() <= graph.get(key).tags.items() for key in graph.get_all_asset_keys())


def test_owners_and_freshness_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_config(tmp_path)
    key = dg.AssetKey("lora_checkpoint")
    node = definitions(tmp_path).resolve_asset_graph().get(key)
    assert list(node.owners) == [] and node.freshness_policy is None
    monkeypatch.setenv("LORA_ASSETS_OWNERS", "team:art, me@example.org, nobody")
    monkeypatch.setenv("LORA_ASSETS_FRESH_DAYS", "7")
    node = definitions(tmp_path).resolve_asset_graph().get(key)
    assert list(node.owners) == ["team:art", "me@example.org"]
    assert node.freshness_policy is not None
    assert "nobody" in caplog.text
    monkeypatch.setenv("LORA_ASSETS_FRESH_DAYS", "weekly")
    assert definitions(tmp_path).resolve_asset_graph().get(key).freshness_policy is None


def test_the_nightly_schedule_requests_one_run_a_project(tmp_path: Path) -> None:
    write_config(tmp_path)
    write_config(tmp_path, "cat")
    repository = definitions(tmp_path).get_repository_def()
    nightly = repository.get_schedule_def("nightly")
    requests = nightly.evaluate_tick(dg.build_schedule_context(repository_def=repository)).run_requests or []
    assert [{key.path[-1] for key in request.asset_selection or ()} for request in requests] == [set(STAGES)] * 2
    assert [request.tags["lora-assets/project"] for request in requests] == ["default", "cat"]
