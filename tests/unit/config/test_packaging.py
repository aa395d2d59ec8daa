from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONSTRAINTS = [
    line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if not line.startswith("#")
]


def requirement_name(requirement: str) -> str:
    return re.split(r"[<>=!~\[; ]", requirement)[0].lower()


def test_the_changelog_has_the_version_of_the_package() -> None:
    version = PYPROJECT["project"]["version"]
    assert f"\n## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_dependency_is_pinned_by_the_constraints() -> None:
    pinned = {line.partition("==")[0] for line in CONSTRAINTS}
    wanted = [*PYPROJECT["project"]["dependencies"], *PYPROJECT["project"]["optional-dependencies"]["dev"]]
    assert [name for name in map(requirement_name, wanted) if name not in pinned] == []


def test_constraints_are_public_versions_and_nothing_else() -> None:
    assert [line for line in CONSTRAINTS if not re.fullmatch(r"[a-z0-9.-]+==[0-9][0-9a-z.]*", line)] == []


def test_dagster_finds_the_code_through_workspace_yaml_alone() -> None:
    # With a [tool.dagster] table workspace.yaml would be ignored without a word.
    assert "dagster" not in PYPROJECT["tool"]


@pytest.mark.parametrize("package", ["trainer_core", "lora_assets"])
def test_no_file_is_longer_than_400_lines(package: str) -> None:
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in (ROOT / package).rglob("*.py")
    }
    assert {name: length for name, length in lengths.items() if length > 400} == {}
