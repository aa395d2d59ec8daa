"""What all tests share."""

from __future__ import annotations

import os

from hypothesis import settings

# The time of one example says nothing on a machine that is shared.
settings.register_profile("project", deadline=None, max_examples=60)
# The same examples every time, so that a change is judged by what it changed.
settings.register_profile("ci", parent=settings.get_profile("project"), derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "project"))
