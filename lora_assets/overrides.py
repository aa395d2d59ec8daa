"""Settings for one run, given in Dagster's launchpad or with `--config-json`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dagster as dg
from pydantic import Field

from lora_assets.projects import ProjectAssets
from trainer_core.errors import ConfigError
from trainer_core.types import Finding


class RunSettings(dg.Config):
    """Run config of every stage's asset."""

    overrides: list[str] = Field(
        default=[],
        description="Settings that replace the project's own for this run, `group.field=value` each, such as "
        "`optimizer.lr=5e-5`. They hold for every asset of the project in this run, whichever asset they are given to.",
    )


def overrides_of_run(run_config: Mapping[str, Any], project: ProjectAssets, stages: Iterable[str]) -> Sequence[str]:
    """Return the overrides that a run's config gives to any asset of a project, each once.

    A stage brings everything above it up to date, so a setting that held for one asset alone would give that asset
    inputs of other settings than the run records for them.

    Args:
        run_config: the run's whole config.
        project: the project.
        stages: names of its assets.

    Raises:
        ConfigError: two assets give one setting different values.
    """
    merged: dict[str, tuple[str, str]] = {}
    ops = run_config.get("ops") or {}
    for stage in stages:
        given = ((ops.get("__".join(project.key(stage).path)) or {}).get("config") or {}).get("overrides") or ()
        for override in given:
            setting = override.partition("=")[0].strip()
            other_stage, other = merged.setdefault(setting, (stage, override))
            if other != override:
                message = f"{other_stage} has the override {other!r}, and {stage} has {override!r}."
                fix = "Overrides hold for every asset of the run: give this one to a single asset."
                raise ConfigError([Finding("error", setting, message, fix)])
    return tuple(override for _, override in merged.values())
