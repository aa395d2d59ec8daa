"""The two sources as observable assets: files that the user owns, and that are read, never written."""

import dagster as dg

from lora_assets import upstream
from lora_assets.assets.stage import SOURCES
from lora_assets.projects import ProjectAssets
from lora_assets.resources import HardwareResource, StoreResource
from trainer_core.errors import LoraAssetsError


def source_asset(
    project: ProjectAssets, name: str, description: str, kinds: frozenset[str], metadata: upstream.Metadata
) -> dg.SourceAsset:
    """Return a source whose data version is a digest of its content."""
    with upstream.without_beta_warnings():

        @dg.observable_source_asset(
            key=project.key(name),
            group_name=project.group,
            description=description,
            tags={**project.tags, **{f"dagster/kind/{kind}": "" for kind in kinds}},
            metadata=dict(metadata),
        )
        def source(store: StoreResource, hardware: HardwareResource) -> dg.DataVersion:
            try:
                with store.session(project.path, hardware.overrides(), fetch=True) as session:
                    return dg.DataVersion(SOURCES[name](session))
            except LoraAssetsError as error:
                raise dg.Failure(str(error), allow_retries=False) from error

    return source
