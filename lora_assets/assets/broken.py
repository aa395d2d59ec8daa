"""The asset that stands for a project whose YAML file is wrong."""

import dagster as dg

from lora_assets.projects import BrokenProject, asset_key
from trainer_core.config.load import load_project
from trainer_core.errors import ConfigError


def build(project: BrokenProject) -> dg.AssetsDefinition:
    """Return a `lora_checkpoint` that shows what is wrong with the file, and fails with it when it is run."""

    @dg.asset(
        key=asset_key(project.path, project.group, "lora_checkpoint"),
        group_name=project.group,
        description=f"{project.path} is not a valid project:\n\n```\n{project.error}\n```",
        kinds={"yaml"},
        metadata={"config": dg.MetadataValue.path(project.path)},
    )
    def lora_checkpoint() -> None:
        try:
            load_project(project.path)
        except ConfigError as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        message = f"{project.path} was corrected after the code was loaded: choose 'Reload definitions' in the UI."
        raise dg.Failure(message, allow_retries=False)

    return lora_checkpoint
