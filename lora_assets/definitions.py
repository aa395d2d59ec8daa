"""What Dagster loads: the assets of every project, with their sensors, schedule and resources."""

import gc
from collections.abc import Sequence

import dagster as dg

from lora_assets.assets import build_assets
from lora_assets.projects import BrokenProject, ProjectAssets, configs_folder, discover_projects
from lora_assets.resources import HardwareResource, StoreResource
from lora_assets.sensors import automation_sensor, dataset_folder_sensor, nightly_schedule


def build_definitions(projects: Sequence[ProjectAssets | BrokenProject]) -> dg.Definitions:
    """Assemble the definitions of some projects."""
    sound = [project for project in projects if not isinstance(project, BrokenProject)]
    return dg.Definitions(
        assets=[asset for project in projects for asset in build_assets(project)],
        sensors=[automation_sensor(), *(dataset_folder_sensor(project, len(sound)) for project in sound)],
        schedules=[nightly_schedule(sound)],
        resources={"store": StoreResource(), "hardware": HardwareResource()},
        # A process for each step would import torch each time, and the stages run one after the other anyway.
        executor=dg.in_process_executor,
    )


defs = build_definitions(discover_projects(configs_folder()))
# All that is loaded stays as long as the process: garbage collections need not visit it. A tenth of a run that finds
# nothing to do went into such visits.
gc.freeze()
