"""Where results are kept."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from pydantic import Field

from trainer_core.run import open_session
from trainer_core.stages.project.session import Session
from trainer_core.types import Report, silent


class StoreResource(dg.ConfigurableResource):
    """Opens projects over the store of a home folder."""

    home: str = Field(
        default="",
        description="Folder of store and outputs. Empty: LORA_ASSETS_HOME, or else .lora-assets in the project's root.",
    )

    @contextmanager
    def session(
        self, config: Path, overrides: Sequence[str] = (), report: Report = silent, fetch: bool = False
    ) -> Generator[Session]:
        """Open a project for as long as the block runs.

        Args:
            config: the project's YAML file.
            overrides: `group.field=value` each, over the file's settings.
            report: called with the progress of the work.
            fetch: download what the hub's cache lacks of the base model.

        Raises:
            LoraAssetsError: the project or the store cannot be opened.
        """
        home = Path(self.home).expanduser().absolute() if self.home else None
        session = open_session(config, overrides, report, home, fetch)
        try:
            yield session
        finally:
            session.close()
