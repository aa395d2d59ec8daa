"""Launches what is stale, level by level, by the condition on each asset."""

import dagster as dg

from lora_assets import upstream


def automation_sensor() -> dg.AutomationConditionSensorDefinition:
    """Return the sensor that evaluates the assets' automation conditions."""
    with upstream.without_beta_warnings():
        return dg.AutomationConditionSensorDefinition(
            "retrain_when_stale",
            target=dg.AssetSelection.all(),
            description="Makes every asset whose data, settings or code changed, once all above it is fresh.",
            default_status=dg.DefaultSensorStatus.RUNNING,
            minimum_interval_seconds=5,
            # The conditions are our own, so our code must evaluate them.
            use_user_code_server=True,
        )
