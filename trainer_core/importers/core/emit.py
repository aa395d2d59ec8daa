"""A draft -> a commented YAML file: only what differs from our defaults, with the key that gave it beside it."""

from __future__ import annotations

import io
from collections.abc import Mapping

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from trainer_core.config.fields import group_models
from trainer_core.importers.core.engine import Chosen, Draft, is_ours
from trainer_core.types import JSON

_REQUIRED = frozenset({"model.family", "model.path"})


def render(draft: Draft, title: str, file_name: str) -> str:
    """Write the YAML text.

    Args:
        draft: what was chosen.
        title: the tool's name for people.
        file_name: the source's name, without its folder, which is nobody else's business.
    """
    yaml = YAML()
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    root = CommentedMap()
    for group in group_models():
        if group == "datasets":
            root[group] = [_mapping(one, "datasets") for one in draft.datasets]
            continue
        chosen = {
            name.partition(".")[2]: value
            for name, value in draft.settings.items()
            if name.startswith(f"{group}.") and (name in _REQUIRED or not is_ours(name, value.value))
        }
        if chosen:
            root[group] = _mapping(chosen, group)
    root.yaml_set_start_comment(_header(title, file_name))
    stream = io.StringIO()
    yaml.dump(root, stream)
    return stream.getvalue()


def _header(title: str, file_name: str) -> str:
    return (
        f"Made by `lora-assets import` from {file_name}, a config of {title}.\n"
        "Settings that are not here have the defaults of docs/config.md. The comments name the keys of the source."
    )


def _mapping(chosen: Mapping[str, Chosen], group: str) -> JSON:
    order = list(group_models()[group].model_fields)
    found = CommentedMap()
    for name in sorted(chosen, key=lambda name: order.index(name.partition(".")[0])):
        one = chosen[name]
        if "." in name:
            inner, _, last = name.partition(".")
            found.setdefault(inner, CommentedMap())[last] = _value(one.value)
            continue
        if group == "datasets" and is_ours(f"datasets.{name}", one.value):
            continue
        found[name] = _value(one.value)
        if comment := _comment(name, one):
            if isinstance(one.value, list | dict):
                found.yaml_set_comment_before_after_key(name, before=comment, indent=4 if group == "datasets" else 2)
            else:
                found.yaml_add_eol_comment(comment, name, column=0)
    return found


def _value(value: JSON) -> JSON:
    """Give short lists one line, long texts and prompts one each."""
    if isinstance(value, list):
        items = CommentedSeq([_value(item) for item in value])
        for inner in items:
            if isinstance(inner, CommentedSeq):
                inner.fa.set_flow_style()
        if all(isinstance(item, int | float) or (isinstance(item, str) and len(item) < 20) for item in value):
            items.fa.set_flow_style()
        return items
    if isinstance(value, Mapping):
        return CommentedMap({key: _value(item) for key, item in value.items()})
    return value


def _comment(name: str, one: Chosen) -> str:
    """Name the source's key where it is called otherwise, and what differs."""
    if not one.key:
        return one.note
    said = f"{one.key}, its default" if one.default else one.key
    plain = one.key.rpartition(".")[2] == name and not one.default
    words = [] if plain else [said]
    return ": ".join([*words, *([one.note] if one.note else [])])
