"""Adapters by name. A new kind of adapter is one file and one row here."""

from __future__ import annotations

from trainer_core.adapters import lora

ADAPTERS = {"lora": lora}
"""`adapter.type` -> module with `attach`, `state`, `load_state`, `disabled` and `layers`."""
