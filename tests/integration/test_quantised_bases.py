"""Training on quantised bases: every family and scheme, the copy in the store, keys, and what is said of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from tests.contract.models import MODELS
from tests.contract.support import open_tiny
from tests.contract.whole_run import whole_run
from tests.integration.test_every_family import check
from tests.projects import TinyProject
from trainer_core import run
from trainer_core.errors import ConfigError
from trainer_core.families.shared import loading
from trainer_core.families.storage.schemes import SCHEMES
from trainer_core.stages import STAGES
from trainer_core.stages.project import quantised_base
from trainer_core.store import Store
from trainer_core.store.gc import collect
from trainer_core.store.verify import verify_store
from trainer_core.types import JSON

pytestmark = pytest.mark.usefixtures("small_control_pictures")

OFTEN = {("sd15", "fp8"), ("sd15", "int8"), ("flux1", "nf4")}
"""Model and scheme that run with the ordinary tests."""
PAIRS = [
    pytest.param(name, scheme, marks=() if (name, scheme) in OFTEN else pytest.mark.campaign)
    for name in sorted(MODELS)
    for scheme in SCHEMES
]
FIRST = ("train.steps=1", "train.checkpoint_every=0")


@pytest.mark.parametrize(("name", "scheme"), PAIRS)
@pytest.mark.setting("memory.base")
def test_a_model_trains_resumes_exports_and_samples_on_a_quantised_base(
    name: str, scheme: str, tmp_path: Path, tiny_bases: Mapping[str, Path]
) -> None:
    tiny = open_tiny(name, tiny_bases[name])
    found = whole_run(tiny, tmp_path / "project", tiny.model.controls, (f"memory.base={scheme}",))
    check(tiny, found, tiny.model.controls)
    metrics = found.results["metrics"].published.metadata
    assert metrics["dense_held_out_loss"] != metrics["held_out_loss_base"]
    assert metrics["dense_held_out_loss"] == pytest.approx(metrics["held_out_loss_base"], rel=0.1)


@pytest.mark.setting("memory.base_modules")
@pytest.mark.setting("memory.compute")
@pytest.mark.setting("sample.quantise")
def test_scheme_layers_and_arithmetic_are_in_the_keys_of_what_they_decide(
    new_project: Callable[[str], TinyProject],
) -> None:
    project = new_project("sd15")

    def inputs(*settings: str) -> dict[str, JSON]:
        session = run.open_session(project.config, settings)
        try:
            return {name: stage.inputs(stage.context(session, {})) for name, stage in STAGES.items()}
        finally:
            session.close()

    dense, readers = inputs(), ("lora_checkpoint", "samples", "metrics")
    choices = [
        *(f"memory.base={scheme}" for scheme in SCHEMES),
        "memory.base=nf4 memory.base_modules=blocks",
        "memory.base=int8 memory.compute=w8a8",
    ]
    found = [inputs(*choice.split()) for choice in choices]
    for name in dense:
        different = {json.dumps(one[name], sort_keys=True) for one in (dense, *found)}
        assert len(different) == (1 + len(choices) if name in readers else 1), name
    assert "base_storage" not in json.dumps(dense), "keys from before there were schemes stay"
    assert inputs("sample.quantise=dense") == dense, "that is what it is trained on"
    other = inputs("memory.base=nf4", "sample.quantise=dense")
    assert other["lora_checkpoint"] == found[list(SCHEMES).index("nf4")]["lora_checkpoint"]
    assert other["samples"] == dense["samples"]


def test_the_file_and_the_card_name_the_scheme_and_the_log_compares_the_losses(
    new_project: Callable[[str], TinyProject], caplog: pytest.LogCaptureFixture
) -> None:
    project = new_project("sd15")
    with caplog.at_level(logging.INFO):
        results = project.run("memory.base=nf4", *FIRST)
    assert results["lora_checkpoint"].published.metadata["lineage"]["base_storage"] == "nf4 (blocks+modulation)"
    with safe_open(project.lora, framework="pt") as file:  # type: ignore[no-untyped-call]
        assert file.metadata()["lora_assets.base_storage"] == "nf4 (blocks+modulation)"
    card = (project.lora.parent / "README.md").read_text()
    assert "nf4 (blocks+modulation)" in card
    assert "held-out loss of the dense base" in card
    assert "as nf4 (blocks+modulation)" in caplog.text
    assert "base_storage" not in json.dumps(project.run(*FIRST)["lora_checkpoint"].published.metadata)


def _copies(project: TinyProject) -> list[Path]:
    return sorted((project.store / "objects" / quantised_base.OBJECTS).glob("*"))


def test_the_second_start_reads_the_kept_copy_and_a_damaged_one_is_made_anew(
    new_project: Callable[[str], TinyProject], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, read, real = new_project("sd15"), list[bool](), loading.load_denoiser

    def load(*given: Any) -> Any:
        read.append(len(given) > 3 and given[3] is not None)
        return real(*given)

    monkeypatch.setattr(loading, "load_denoiser", load)
    first = project.run("memory.base=int8", *FIRST, until="lora_checkpoint")
    again = project.run("memory.base=int8", "optimizer.lr=1e-3", *FIRST, until="lora_checkpoint")
    assert read == [False, True]
    (copy,) = _copies(project)
    weights = copy / quantised_base.FILE
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    third = project.run("memory.base=int8", *FIRST, "train.seed=8", until="lora_checkpoint")
    assert read == [False, True, False]
    assert len(_copies(project)) == 1
    assert len({one["lora_checkpoint"].published.data_version for one in (first, again, third)}) == 3


def test_a_start_that_is_killed_while_the_copy_is_written_leaves_nothing(
    new_project: Callable[[str], TinyProject], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, write = new_project("sd15"), quantised_base.kept_copy.write

    def half(path: Path, model: Any) -> None:
        write(path, model)
        path.write_bytes(path.read_bytes()[:1000])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(quantised_base.kept_copy, "write", half)
        with pytest.raises(KeyboardInterrupt):
            project.run("memory.base=nf4", *FIRST, until="lora_checkpoint")
    assert _copies(project) == []
    project.run("memory.base=nf4", *FIRST, until="lora_checkpoint")
    assert len(_copies(project)) == 1


def test_collection_keeps_a_copy_as_long_as_a_lora_of_it_is_used(new_project: Callable[[str], TinyProject]) -> None:
    project = new_project("sd15")
    project.run("memory.base=nf4", *FIRST, until="lora_checkpoint")
    with Store.open(project.store) as store:
        assert verify_store(store) == []
        collect(store, dry_run=False, grace_seconds=0)
        assert len(_copies(project)) == 1
    project.run(*FIRST, until="lora_checkpoint")
    with Store.open(project.store) as store:
        collect(store, dry_run=False, grace_seconds=0)
    assert _copies(project) == []


def test_kinds_that_read_the_weights_are_refused_before_any_work(new_project: Callable[[str], TinyProject]) -> None:
    with pytest.raises(ConfigError, match="dora computes with the base's weights at every step"):
        new_project("sd15").run("memory.base=nf4", "adapter.type=dora")


@pytest.mark.parametrize("kind", ["loha", "lokr", "diag-oft", "ia3", "full"])
def test_other_kinds_train_on_a_quantised_base(kind: str, new_project: Callable[[str], TinyProject]) -> None:
    results = new_project("sd15").run(
        "memory.base=nf4", f"adapter.type={kind}", "export.formats=[lycoris]", *FIRST, until="lora_checkpoint"
    )
    assert all(proof["ok"] for proof in results["lora_checkpoint"].published.metadata["proof"])


def test_pictures_can_be_rendered_on_another_scheme(new_project: Callable[[str], TinyProject]) -> None:
    project = new_project("sd15")
    trained = project.run("memory.base=nf4", *FIRST, until="samples")
    dense = project.run("memory.base=nf4", "sample.quantise=dense", *FIRST, until="samples")
    assert dense["lora_checkpoint"].items_computed == 0
    assert trained["samples"].published.data_version != dense["samples"].published.data_version


@pytest.mark.parametrize(("gibibytes", "scheme"), [(64, None), (1e-4, "nf4")])
def test_auto_is_what_fits_the_machine_and_keyed_as_that(
    gibibytes: float, scheme: str | None, new_project: Callable[[str], TinyProject], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = quantised_base.budget_of
    monkeypatch.setattr(quantised_base, "budget_of", lambda *given: replace(real(*given), total=gibibytes * 2**30))
    session = run.open_session(new_project("sd15").config, ("memory.base=auto",))
    try:
        stage = STAGES["lora_checkpoint"]
        inputs: Any = stage.inputs(stage.context(session, {}))
    finally:
        session.close()
    assert inputs.get("base_storage", {}).get("scheme") == scheme
