"""What starts work by itself: a sensor that watches folders, one that launches what is stale, a nightly schedule."""

from lora_assets.sensors.automation import automation_sensor
from lora_assets.sensors.dataset_folder import dataset_folder_sensor
from lora_assets.sensors.nightly import nightly_schedule

__all__ = ["automation_sensor", "dataset_folder_sensor", "nightly_schedule"]
