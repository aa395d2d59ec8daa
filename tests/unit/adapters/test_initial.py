"""Going on from layers that were trained before."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.unit.adapters.support import Model, attach, on_model, output
from trainer_core.adapters.adapter import ADAPTERS
from trainer_core.config.groups import AdapterConfig
from trainer_core.errors import ConfigError

every = pytest.mark.parametrize("kind", sorted(ADAPTERS))


def trained(kind: str, options: Any = None, **config: Any) -> tuple[Model, Any]:
    """Return a model with a trained adapter, and its layers as a file has them."""
    model, _ = on_model(kind, options, **config)
    settings = AdapterConfig.model_validate({"type": kind, "rank": 4, "alpha": 3.0} | config)
    return model.eval(), ADAPTERS[kind].layers(ADAPTERS[kind].state(model), settings)


def going_on(kind: str, layers: Any, options: Any = None, **config: Any) -> Model:
    model = Model()
    attach(model, kind, options, initial=layers, **config)
    return model.eval()


@pytest.mark.setting("adapter.init_from")
@every
def test_training_goes_on_where_the_file_ended(kind: str) -> None:
    before, layers = trained(kind)
    assert torch.equal(output(going_on(kind, layers)), output(before))


@pytest.mark.setting("adapter.init_from")
@pytest.mark.parametrize("kind", ["lora", "locon", "dylora", "loha", "glora"])
def test_another_alpha_is_made_up_for(kind: str) -> None:
    before, layers = trained(kind)
    model = going_on(kind, layers, alpha=1.0)
    assert torch.allclose(output(model), output(before), atol=1e-5)
    settings = AdapterConfig.model_validate({"type": kind, "rank": 4, "alpha": 1.0})
    assert {one.alpha for one in ADAPTERS[kind].layers(ADAPTERS[kind].state(model), settings).values()} == {1.0}


@pytest.mark.setting("adapter.rank_from_weights")
@pytest.mark.parametrize("kind", ["lora", "locon", "dora", "dylora", "loha", "glora"])
def test_ranks_and_alphas_are_taken_from_the_file(kind: str) -> None:
    before, layers = trained(kind, blocks={r".*\.to_q": {"rank": 8}, ".*proj": {"rank": 4, "alpha": 1.0}})
    with pytest.raises(ConfigError, match=r"adapter\.init_from.*adapter\.rank_from_weights"):
        going_on(kind, layers)
    model = going_on(kind, layers, rank_from_weights=True)
    assert torch.equal(output(model), output(before))
    settings = AdapterConfig.model_validate({"type": kind, "rank": 4, "alpha": 3.0})
    again = ADAPTERS[kind].layers(ADAPTERS[kind].state(model), settings)
    assert {name: one.alpha for name, one in again.items()} == {name: one.alpha for name, one in layers.items()}


@pytest.mark.setting("adapter.init_from")
@every
def test_modules_that_the_file_lacks_begin_and_those_that_settings_leave_out_are_an_error(kind: str) -> None:
    before, layers = trained(kind, targets="attention", blocks={".*conv": {"rank": 0}} if kind == "locon" else {})
    assert torch.allclose(output(going_on(kind, layers)), output(before), atol=1e-6)
    _, more = trained(kind)
    with pytest.raises(ConfigError, match=r"adapter\.init_from.*leave out"):
        going_on(kind, more, targets=r"blocks\.0\.to_q")


def test_another_kind_is_refused_and_a_dora_may_begin_with_a_lora() -> None:
    _, lora = trained("lora")
    _, loha = trained("loha")
    for kind, layers in (("loha", lora), ("lora", loha), ("lokr", loha)):
        with pytest.raises(ConfigError, match=r"adapter\.init_from"):
            going_on(kind, layers)
    begun = going_on("dora", lora)
    assert not torch.equal(output(begun), output(Model()))


@pytest.mark.setting("adapter.rank_from_weights")
def test_a_lokr_of_another_rank_may_be_whole_where_this_one_is_not() -> None:
    before, layers = trained("lokr", {"factor": 2, "full_matrix": True})
    model = going_on("lokr", layers, {"factor": 2}, rank_from_weights=True)
    assert torch.equal(output(model), output(before))
