"""What all tests share."""

from __future__ import annotations

from hypothesis import settings

# The time of one example says nothing on a machine that is shared.
settings.register_profile("project", deadline=None, max_examples=60)
settings.load_profile("project")
