"""Times as logs and metrics write them."""

from __future__ import annotations

import time
from datetime import datetime


def iso_time(seconds: float | None = None) -> str:
    """Return a time as ISO 8601 with milliseconds and the offset of the local time zone.

    Args:
        seconds: since the epoch; now unless given.
    """
    at = time.time() if seconds is None else seconds
    return datetime.fromtimestamp(at).astimezone().isoformat(timespec="milliseconds")
