"""What Dagster's catalogue shows of assets besides their content: owners and a freshness policy, where they are set."""

import logging
import os
import re
from collections.abc import Sequence
from datetime import timedelta

import dagster as dg

OWNERS_VARIABLE = "LORA_ASSETS_OWNERS"
FRESH_DAYS_VARIABLE = "LORA_ASSETS_FRESH_DAYS"

_OWNER = re.compile(r"team:[A-Za-z0-9_]+|[^@\s]+@[^@\s]+\.[^@\s.]+")

log = logging.getLogger(__name__)


def owners() -> Sequence[str]:
    """Return the owners in `LORA_ASSETS_OWNERS`: mail addresses and `team:NAME`, with commas between them."""
    listed = [owner.strip() for owner in os.environ.get(OWNERS_VARIABLE, "").split(",") if owner.strip()]
    for owner in listed:
        if not _OWNER.fullmatch(owner):
            log.warning("%s: %r is neither a mail address nor team:NAME, so it is left out", OWNERS_VARIABLE, owner)
    return [owner for owner in listed if _OWNER.fullmatch(owner)]


def freshness_policy() -> dg.FreshnessPolicy | None:
    """Return the policy that a result is overdue after `LORA_ASSETS_FRESH_DAYS` days; without the variable, none.

    A LoRA does not age by itself: whether it is out of date follows from data versions. So a limit in days is a choice,
    for those who retrain on a schedule.
    """
    text = os.environ.get(FRESH_DAYS_VARIABLE, "")
    if not text:
        return None
    try:
        return dg.FreshnessPolicy.time_window(fail_window=timedelta(days=float(text)))
    except (ValueError, OverflowError, dg.DagsterError) as error:
        log.warning("%s=%s sets no freshness policy; give days, such as 7: %s", FRESH_DAYS_VARIABLE, text, error)
        return None
