from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from lora_assets.assets.checkpoint import LORA_CHECKPOINT
from lora_assets.assets.latents import CACHED_LATENTS
from lora_assets.overrides import overrides_of_run
from lora_assets.projects import ProjectAssets, discover_projects
from tests.unit.dagster.support import STAGES, definitions, write_config
from trainer_core.errors import ConfigError


def project(tmp_path: Path, name: str = "default") -> ProjectAssets:
    write_config(tmp_path, name)
    (only,) = discover_projects(tmp_path / "configs")
    assert isinstance(only, ProjectAssets)
    return only


def config(**overrides: list[str]) -> dict[str, object]:
    return {"ops": {op: {"config": {"overrides": given}} for op, given in overrides.items()}}


def test_overrides_of_any_asset_hold_for_the_whole_run_each_once(tmp_path: Path) -> None:
    given = config(cached_latents=["latents.precision=bf16"], lora_checkpoint=["optimizer.lr=5e-5"])
    given["ops"]["samples"] = {"config": {"overrides": ["optimizer.lr=5e-5"]}}  # type: ignore[index]
    assert overrides_of_run(given, project(tmp_path), STAGES) == ("latents.precision=bf16", "optimizer.lr=5e-5")


def test_other_projects_in_the_run_are_not_concerned(tmp_path: Path) -> None:
    given = config(lora_checkpoint=["optimizer.lr=1"], cat__lora_checkpoint=["optimizer.lr=5e-5"])
    assert overrides_of_run(given, project(tmp_path, "cat"), STAGES) == ("optimizer.lr=5e-5",)


@pytest.mark.parametrize("run_config", [{}, {"ops": {}}, {"ops": {"lora_checkpoint": {}}}, {"execution": {}}])
def test_a_run_without_overrides_has_none(tmp_path: Path, run_config: dict[str, object]) -> None:
    assert overrides_of_run(run_config, project(tmp_path), STAGES) == ()


def test_two_values_of_one_setting_are_an_error_that_names_both(tmp_path: Path) -> None:
    given = config(samples=["optimizer.lr=1e-4"], lora_checkpoint=["optimizer.lr=5e-5"])
    with pytest.raises(ConfigError, match=r"optimizer\.lr") as error:
        overrides_of_run(given, project(tmp_path), STAGES)
    assert all(word in str(error.value) for word in ("lora_checkpoint", "samples", "1e-4", "5e-5"))


@pytest.mark.parametrize("override", ["optimizer.rate=1", "optimizer.lr=fast", "nonsense", "=3"])
def test_a_wrong_override_fails_the_step_with_what_is_wrong(tmp_path: Path, override: str) -> None:
    write_config(tmp_path)
    job = definitions(tmp_path).resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey("lora_checkpoint")],
            run_config=config(lora_checkpoint=[override]),
            raise_on_error=False,
        )
    failure = result.failure_data_for_node("lora_checkpoint")
    assert not result.success and failure is not None and failure.user_failure_data is not None
    assert override.partition("=")[0] in (failure.user_failure_data.description or "")


def test_overrides_change_the_code_version_of_the_stages_that_read_them(tmp_path: Path) -> None:
    own = project(tmp_path)
    other = own.with_overrides(["optimizer.lr=5e-5"])
    assert LORA_CHECKPOINT.code_version(other) != LORA_CHECKPOINT.code_version(own)
    assert CACHED_LATENTS.code_version(other) == CACHED_LATENTS.code_version(own)
