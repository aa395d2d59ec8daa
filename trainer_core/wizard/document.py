"""Choices as a YAML file with the reason beside each."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from trainer_core.wizard.choices import Choice
from trainer_core.wizard.situation import Answers

_HEADER = """\
{name}: a {goal} LoRA, {effort}. Written by `lora-assets init`; every setting is described in docs/config.md.
Next: `lora-assets check {project}` says what is still wrong, `lora-assets plan {project}` what would be computed,
`lora-assets train {project}` trains."""
_BROAD = 110
"""Reasons that would make a line longer stand above it."""


def write_yaml(answers: Answers, choices: Sequence[Choice], paths: dict[str, str], project: str = "") -> str:
    """Return the file's text.

    Args:
        answers: what the user said.
        choices: the settings; `datasets.N.` of the N-th dataset.
        paths: `base`, `dataset`, and `configs` and `regularisation` where there are some, as the file names them.
        project: what commands call the project: its path where it lies outside of `configs`; its name unless given.
    """
    document: Any = CommentedMap()
    document["model"] = CommentedMap(family=answers.family, path=paths["base"])
    if "configs" in paths:
        document["model"]["config_path"] = paths["configs"]
    document["datasets"] = [CommentedMap(path=paths["dataset"])]
    if "regularisation" in paths:
        document["datasets"].append(CommentedMap(path=paths["regularisation"]))
    for choice in choices:
        _put(document, choice)
    called = project or answers.name
    header = _HEADER.format(name=answers.name, goal=answers.goal, effort=answers.effort, project=called)
    document.yaml_set_start_comment(header)
    for name in list(document)[1:]:
        document.yaml_set_comment_before_after_key(name, before="\n")
    yaml = YAML()
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    stream = io.StringIO()
    yaml.dump(document, stream)
    return stream.getvalue()


def _put(document: Any, choice: Choice) -> None:
    *way, field = choice.path.split(".")
    node = document
    for name in way:
        if isinstance(node, list):
            node = node[int(name)]
            continue
        if name not in node:
            node[name] = CommentedMap()
        node = node[name]
    node[field] = choice.value
    line = f"  {field}: {choice.value}  # {choice.reason}"
    if isinstance(choice.value, list) or len(line) > _BROAD:
        node.yaml_set_comment_before_after_key(field, before=choice.reason, indent=2 * len(way))
    else:
        node.yaml_add_eol_comment(choice.reason, field)
