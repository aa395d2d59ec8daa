"""Makes everything at night."""

import dagster as dg


def nightly_schedule() -> dg.ScheduleDefinition:
    """Return a schedule for those who turn the automation off: all assets at 03:00, of which fresh ones cost a look."""
    return dg.ScheduleDefinition(
        name="nightly",
        target=dg.AssetSelection.all(),
        cron_schedule="0 3 * * *",
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Brings every asset of every project up to date at 03:00.",
    )
