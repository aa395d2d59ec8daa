"""Settings that stand for "what the base was trained at" become numbers."""

from __future__ import annotations

from trainer_core.config.project import Project


def with_native_resolution(project: Project, native: int) -> Project:
    """Return a project whose bucket sides are numbers, so that a default and the same number given make one key.

    Args:
        project: valid settings, where 0 stands for a side that was not given.
        native: side in pixels of the square that the base was trained at.
    """
    bucket = project.bucket
    if bucket.resolution and bucket.max_side:
        return project
    resolution = bucket.resolution or native
    largest = max([resolution, *(side for dataset in project.datasets for side in dataset.resolutions)])
    sides = {"resolution": resolution, "max_side": bucket.max_side or 2 * largest}
    return project.model_copy(update={"bucket": bucket.model_copy(update=sides)})


def without_base(project: Project, default: int) -> tuple[Project, int | None]:
    """Return what is certain of the bucket sides before the base is asked.

    Args:
        project: valid settings, where 0 stands for a side that was not given.
        default: side in pixels that most bases of the family were trained at.

    Returns:
        A project whose `max_side` is a number wherever its settings alone decide it, and `default` where
        `bucket.resolution` was not given, else None.
    """
    if project.bucket.resolution:
        return with_native_resolution(project, project.bucket.resolution), None
    return project, default
