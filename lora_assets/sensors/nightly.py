"""Brings everything up to date at night."""

from collections.abc import Sequence

import dagster as dg

from lora_assets.projects import PROJECT_TAG, ProjectAssets
from trainer_core.stages import STAGES


def nightly_schedule(projects: Sequence[ProjectAssets]) -> dg.ScheduleDefinition:
    """Return a schedule for those who turn the automation off: one run a project at 03:00; what is fresh is reused."""

    @dg.schedule(
        name="nightly",
        target=dg.AssetSelection.all(),
        cron_schedule="0 3 * * *",
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Brings every asset of every project up to date at 03:00, one run a project.",
    )
    def nightly() -> list[dg.RunRequest]:
        return [
            dg.RunRequest(
                run_key=project.group,
                asset_selection=[project.key(stage) for stage in STAGES],
                tags={PROJECT_TAG: project.tags[PROJECT_TAG]},
            )
            for project in projects
        ]

    return nightly
