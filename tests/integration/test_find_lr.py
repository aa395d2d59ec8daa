"""`find-lr` on a real, tiny model, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.cli.support import Project, call, make_project, told

QUICK = ("--from", "1e-4", "--to", "10", "--steps", "24")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_bases: dict[str, Path]) -> Project:
    return make_project(tmp_path_factory.mktemp("project"), tiny_bases["sd15"])


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LORA_ASSETS_HOME", raising=False)


def test_it_brings_up_the_caches_tells_rates_and_touches_no_run(project: Project) -> None:
    answer = told(call("find-lr", "cats", *QUICK, "--json", cwd=project.root))
    keys = {"suggested", "steepest", "tenth_of_lowest", "lowest", "diverged", "ended_too_soon"}
    keys |= {"readings", "picture", "figures"}
    assert set(answer) == keys
    rates = [one["rate"] for one in answer["readings"]]
    assert rates == sorted(rates) and rates[0] == pytest.approx(1e-4)
    assert answer["readings"][0]["share"] == pytest.approx(1.0), "the first step is taken before anything is learnt"
    assert Path(answer["picture"]).read_bytes().startswith(b"\x89PNG")
    figures = json.loads(Path(answer["figures"]).read_text())
    assert figures["readings"] == answer["readings"]
    store = project.home / "store"
    assert not list(store.glob("runs/*"))
    stages = {path.name for path in store.glob("objects/*")}
    assert {"cached_latents", "cached_text_embeddings"} <= stages and "lora_checkpoint" not in stages


def test_it_tells_the_same_again_and_shows_the_line_for_the_yaml(project: Project) -> None:
    first, second = (told(call("find-lr", "cats", *QUICK, "--json", cwd=project.root)) for _ in range(2))
    assert first["readings"] == second["readings"]
    shown = call("find-lr", "cats", *QUICK, cwd=project.root)
    assert shown.exit_code == 0
    if first["suggested"] is None:
        assert "No rate lowered the loss" in shown.stdout
    else:
        assert f"optimizer:\n  lr: {first['suggested']:.1e}" in shown.stdout


def test_a_rate_that_is_far_too_high_ends_the_test(project: Project) -> None:
    wild = ("--from", "0.5", "--to", "10", "--steps", "40", "--set", "adapter.alpha=512")
    answer = told(call("find-lr", "cats", *wild, "--json", cwd=project.root))
    assert answer["diverged"] is not None
    assert len(answer["readings"]) < 40


@pytest.mark.parametrize("optimizer", ["prodigy", "DAdaptAdam", "pytorch_optimizer.DAdaptSGD"])
def test_an_optimizer_that_finds_its_own_rate_is_refused_before_anything_is_computed(
    project: Project, optimizer: str
) -> None:
    result = call("find-lr", "cats", "--set", f"optimizer.name={optimizer}", cwd=project.root)
    assert result.exit_code == 2
    assert "finds its own learning rate" in result.stderr


@pytest.mark.parametrize("arguments", [("--from", "1", "--to", "0.1"), ("--from", "0"), ("--steps", "3")])
def test_ranges_that_make_no_sense_are_wrong_usage(project: Project, arguments: tuple[str, ...]) -> None:
    result = call("find-lr", "cats", *arguments, cwd=project.root)
    assert result.exit_code == 2
    assert "it must be" in result.stderr
