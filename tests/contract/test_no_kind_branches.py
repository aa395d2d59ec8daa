"""Only their own packages know the names of adapter kinds and export formats: everybody else asks their data."""

from __future__ import annotations

from pathlib import Path

import pytest

import lora_assets
import trainer_core
from tests.contract.test_no_family_branches import branches
from trainer_core import adapter_kinds as kinds_package
from trainer_core.adapter_kinds import adapter_kinds, layer_kinds
from trainer_core.config.groups import AdapterConfig, ExportConfig
from trainer_core.export import formats as formats_package
from trainer_core.export.formats import formats

CORE = Path(trainer_core.__file__).parent
KINDS, FORMATS = Path(kinds_package.__file__).parent, Path(formats_package.__file__).parent
TRANSLATORS = CORE / "importers"
"""Importers translate the names that other trainers have."""
NOT_KINDS = {"lora", "full", "norm"}
"""Words with other meanings too: keys of JSON, a preset of LyCORIS, a kind of module."""
NOT_FORMATS = {"diffusers", "kohya", "native"}
"""Also a library, a layout of folders, a style of keys, and torch's own attention."""


def modules_outside(package: Path) -> list[Path]:
    roots = (CORE, Path(lora_assets.__file__).parent)
    every = [path for root in roots for path in root.rglob("*.py")]
    return sorted(path for path in every if package not in path.parents and TRANSLATORS not in path.parents)


@pytest.mark.parametrize("path", modules_outside(KINDS), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_module_outside_the_kinds_asks_for_the_name_of_one(path: Path) -> None:
    names = (set(adapter_kinds()) | set(layer_kinds())) - NOT_KINDS
    lines = [f"{path}:{line}: {name}" for line, name in branches(path.read_text("utf-8"), names)]
    assert not lines, f"ask `adapter_kinds()`, not the name: {lines}"


@pytest.mark.parametrize("path", modules_outside(FORMATS), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_module_outside_the_formats_asks_for_the_name_of_one(path: Path) -> None:
    lines = [f"{path}:{line}: {name}" for line, name in branches(path.read_text("utf-8"), set(formats()) - NOT_FORMATS)]
    assert not lines, f"ask `formats()`, not the name: {lines}"


@pytest.mark.parametrize("attribute", ["adapter.type", "config.type", "kind", "layer.kind"])
def test_a_comparison_with_a_kind_is_seen(attribute: str) -> None:
    assert list(branches(f"if {attribute} == 'lokr': pass", set(adapter_kinds())))


def test_settings_take_every_kind_and_every_format_and_nothing_else() -> None:
    types = AdapterConfig.model_json_schema()["properties"]["type"]["enum"]
    assert types == list(adapter_kinds())
    names = ExportConfig.model_json_schema()["properties"]["formats"]["items"]["enum"]
    assert names == list(formats())


def test_every_kind_has_layers_and_knows_only_settings_that_exist() -> None:
    from trainer_core.adapter_kinds.kind import SETTINGS_OF_SOME

    for kind in adapter_kinds().values():
        assert kind.layers in layer_kinds()
        assert kind.settings <= set(SETTINGS_OF_SOME), kind.name


def test_a_module_dropped_into_the_package_is_a_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = """
from trainer_core.export.formats import kohya
from trainer_core.export.lora_format import LoraFormat

FORMAT = LoraFormat("made_up", "this test", lambda names: "kohya", kohya.tensors)
"""
    (tmp_path / "made_up.py").write_text(source)
    monkeypatch.setattr(formats_package, "__path__", [*formats_package.__path__, str(tmp_path)])
    formats.cache_clear()
    try:
        assert formats()["made_up"].title == "this test"
    finally:
        formats.cache_clear()
