"""What the work runs on."""

from collections.abc import Sequence

import dagster as dg
from pydantic import Field

from trainer_core.hardware.profiles import HardwareProfile


class HardwareResource(dg.ConfigurableResource):
    """Chooses the hardware profile of every run."""

    profile: str = Field(
        default="project",
        description="A row of the profile table (`cpu`, `rtx4090`, `h100`, ...), `auto` to detect one, or `project` "
        "for what each project's hardware.profile says. Precisions that a profile chooses enter the keys of results.",
    )

    def overrides(self) -> Sequence[str]:
        """Return the settings that replace a project's own."""
        return () if self.profile == "project" else (f"hardware.profile={self.profile}",)


def describe(profile: HardwareProfile) -> dg.MetadataValue:
    """Return a profile in force as a Markdown table."""
    rows = {
        "profile": f"{profile.name}: {profile.title}",
        "device": profile.device,
        "precision of training": profile.train_precision,
        "precision of encoding": profile.encode_precision,
        "attention": profile.attention,
        "pictures encoded at once": profile.encode_batch_size,
    }
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return dg.MetadataValue.md("\n".join(["| hardware | |", "| --- | --- |", *lines]))
