"""What the work runs on."""

from collections.abc import Sequence

import dagster as dg
from pydantic import Field

from trainer_core.stages.project.session import Session


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


def describe(session: Session) -> dg.MetadataValue:
    """Return the profile in force, and the precisions that it and the settings came to, as a Markdown table."""
    profile, project = session.workspace.profile, session.project
    rows = {
        "profile": profile.title,
        "device": profile.device,
        "precision of training": session.workspace.precision("train", project.train.precision),
        "precision of the VAE": session.workspace.precision("vae", project.latents.precision),
        "precision of the text encoders": session.workspace.precision("text", project.text.precision),
        "attention": profile.attention,
        "pictures encoded at once": profile.encode_batch_size,
    }
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return dg.MetadataValue.md("\n".join(["| hardware | in force |", "| --- | --- |", *lines]))
