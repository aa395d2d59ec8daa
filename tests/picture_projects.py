"""What tests ask about the pictures of a tiny project: its samples, and which latents are stale."""

from __future__ import annotations

from tests.projects import TinyProject
from trainer_core import run
from trainer_core.types import Sample


def samples_of(project: TinyProject, *overrides: str) -> dict[str, Sample]:
    session = run.open_session(project.config, overrides)
    try:
        return {sample.id: sample for sample in session.workspace.manifest.samples}
    finally:
        session.close()


def stale_latents(project: TinyProject, *overrides: str) -> dict[str, str]:
    return dict(project.plan(*overrides)["cached_latents"].stale)


def trained(project: TinyProject, *overrides: str) -> set[str]:
    return {name for name, sample in samples_of(project, *overrides).items() if sample.split == "train"}
