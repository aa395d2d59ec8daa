"""Puts adapters on models. What each kind is stands in `trainer_core.adapter_kinds`: one file a kind."""
