"""What assets and sensors are given: the place of the store, and the hardware."""

from lora_assets.resources.hardware import HardwareResource
from lora_assets.resources.store import StoreResource

__all__ = ["HardwareResource", "StoreResource"]
