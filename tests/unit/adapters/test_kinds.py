"""What every kind of adapter must do, and that LyCORIS makes the same of the same tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lycoris import create_lycoris_from_weights
from torch import nn

from tests.unit.adapters.support import Model, attach, disturb, gradients, inputs, on_model, output
from trainer_core.adapter_kinds import layer_kinds
from trainer_core.adapter_kinds.kind import AdapterTarget
from trainer_core.adapter_kinds.lokr import split
from trainer_core.adapter_kinds.oft import butterfly_blocks
from trainer_core.adapters.adapter import ADAPTERS, module_of
from trainer_core.adapters.adapter_module import begin
from trainer_core.adapters.layers import as_layer
from trainer_core.config.groups import AdapterConfig, AdapterOptionsConfig
from trainer_core.export.lycoris_file import named_tensors
from trainer_core.export.readers.lycoris import lycoris_error

SHAPES = [(32, 40), (32, 16, 1, 1), (32, 16, 3, 3)]
VARIANTS = [
    *((kind, {}) for kind in layer_kinds() if kind not in ("norm", "ia3-on-input")),
    *((kind, {"tucker": True}) for kind in ("locon", "loha", "lokr")),
    *((kind, {"decompose": True}) for kind in ("locon", "loha", "lokr")),
    *((kind, {"rescaled": True}) for kind in ("diag-oft", "boft")),
    *((kind, {"constraint": 0.01}) for kind in ("diag-oft", "boft")),
    ("lokr", {"factor": 4}),
    ("lokr", {"full_matrix": True}),
]
MARKS = {
    "tucker": "adapter_options.tucker",
    "decompose": "adapter_options.decompose",
    "rescaled": "adapter_options.rescaled",
    "constraint": "adapter_options.constraint",
    "factor": "adapter_options.factor",
    "full_matrix": "adapter_options.full_matrix",
}
UNREADABLE_BY_LYCORIS = {"ia3"}
"""LyCORIS reads two tensors of a layer of (IA)^3 and gives them to a constructor that takes one."""
hooked = pytest.mark.parametrize("kind", sorted(set(ADAPTERS) - {"lora"}))
every = pytest.mark.parametrize("kind", sorted(ADAPTERS))


def host_of(shape: tuple[int, ...]) -> Any:
    torch.manual_seed(2)
    return nn.Linear(shape[1], shape[0]) if len(shape) == 2 else nn.Conv2d(shape[1], shape[0], shape[2])


@pytest.mark.setting("adapter_options.tucker", "adapter_options.decompose", "adapter_options.rescaled")
@pytest.mark.setting("adapter_options.constraint", "adapter_options.factor", "adapter_options.full_matrix")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("kind", "options"), VARIANTS)
def test_lycoris_makes_the_same_of_a_layers_tensors(kind: str, options: Any, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(3)
    own = AdapterOptionsConfig.model_validate(options)
    tensors = begin(
        host_of(shape), AdapterTarget("x", shape, 4, 2.5), kind, AdapterConfig(type="locon"), own, generator
    )
    moved = {
        key: tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
        for key, tensor in tensors.items()
        if key not in layer_kinds()[kind].fixed
    }
    layer = as_layer(kind, tensors | moved)
    assert lycoris_error(layer, layer, shape, 5) < 1e-6


def test_lycoris_sees_a_wrong_layer() -> None:
    own, generator = AdapterOptionsConfig(), torch.Generator().manual_seed(3)
    first, second = (
        as_layer(
            "loha",
            begin(host_of((32, 40)), AdapterTarget("x", (32, 40), 4, alpha), "loha", AdapterConfig(), own, generator),
        )
        for alpha in (2.5, 2.5)
    )
    for layer in (first, second):
        layer.tensors["hada_w2_a"].normal_(generator=generator)  # type: ignore[union-attr]
    assert lycoris_error(first, second, (32, 40), 5) > 0.1


def test_splits_are_those_of_lycoris() -> None:
    from lycoris.functional.general import factorization, power2factorization

    for dimension in (*range(1, 130), 320, 640, 768, 1280, 3072, 9216, 12288):
        for factor in (-1, 1, 2, 3, 4, 8, 16, 64):
            assert split(dimension, factor) == factorization(dimension, factor), (dimension, factor)
            if factor > 1:
                theirs = power2factorization(dimension, factor)
                assert butterfly_blocks(dimension, factor) == (theirs if theirs[1] else None), (dimension, factor)


@pytest.mark.setting("adapter.type")
@every
def test_a_fresh_adapter_changes_nothing_and_then_learns(kind: str) -> None:
    model, plain = Model(), output(Model())
    parameters = attach(model, kind)
    assert torch.allclose(output(model.train()), plain, atol=1e-6)
    assert {one.dtype for one in parameters.values()} == {torch.float32}
    assert {name for name, one in model.named_parameters() if one.requires_grad} and all(
        one.requires_grad for one in parameters.values()
    )
    assert sum(one.requires_grad for one in model.parameters()) == len(parameters)
    before = output(model).square().sum()
    optimizer = torch.optim.SGD(parameters.values(), lr=1e-4)
    for _ in range(5):
        optimizer.zero_grad()
        output(model).square().sum().backward()
        optimizer.step()
    assert output(model).square().sum() < before


@every
def test_state_goes_out_and_into_another_model_bit_for_bit(kind: str) -> None:
    model, _ = on_model(kind)
    other = Model()
    attach(other, kind, seed=77)
    assert not torch.equal(output(other.eval()), output(model.eval()))
    ADAPTERS[kind].load_state(other, ADAPTERS[kind].state(model))
    assert torch.equal(output(other.eval()), output(model.eval()))


@every
def test_checkpointed_gradients_are_the_same_with_all_its_draws(kind: str) -> None:
    drops: dict[str, Any] = {"module_dropout": 0.3} | ({} if kind in ("ia3", "diag-oft", "boft") else {"dropout": 0.3})
    drops |= {"rank_dropout": 0.3} if kind in ("lora", "locon", "dora", "loha", "lokr", "glora") else {}
    model, parameters = on_model(kind, {"block_size": 2} if kind == "dylora" else None, **drops)
    plain = gradients(model, parameters)
    model.checkpointing = True
    again = gradients(model, parameters)
    assert plain.keys() == again.keys() == parameters.keys()
    assert all(torch.equal(plain[name], again[name]) for name in plain)


@every
def test_a_bf16_base_does_not_swallow_small_updates(kind: str) -> None:
    """Added to a weight in bf16, an update a thousand times smaller is rounded away; added to the output it is not."""
    rounded = Model().to(torch.bfloat16).float()
    wide, narrow = attached_to(rounded, kind), attached_to(Model().to(torch.bfloat16), kind)
    disturb(dict(wide[1]), 1e-3)
    ADAPTERS[kind].load_state(narrow[0], ADAPTERS[kind].state(wide[0]))
    x = torch.randn(64, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain = Model().to(torch.bfloat16).float().blocks[0].to_q(x)
        wanted = wide[0].get_submodule("blocks.0.to_q")(x) - plain
        narrow_host = narrow[0].get_submodule("blocks.0.to_q")
        changes = [_change(narrow_host, x)]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            changes.append(_change(narrow_host, x).float())
    assert all(float((change - wanted).norm() / wanted.norm()) < 0.05 for change in changes)


def attached_to(model: Model, kind: str) -> tuple[Model, dict[str, nn.Parameter]]:
    return model, attach(model, kind)


def _change(module: Any, x: torch.Tensor) -> torch.Tensor:
    """Return what the adapter adds, as it is before it joins the output in bf16."""
    seen: list[torch.Tensor] = []
    adapter = getattr(module, "lora_assets_adapter", None)
    if adapter is None:
        return module.lora_B["default"](module.lora_A["default"](x)).detach() * module.scaling["default"]
    before = adapter.forward

    def note(host: Any, given: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        seen.append(before(host, given, torch.zeros_like(output.float()) + output.float()) - output.float())
        return output

    adapter.forward = note
    module(x.to(torch.bfloat16))
    del adapter.forward
    return seen[0].detach()


@pytest.mark.parametrize("kind", sorted(set(ADAPTERS) - {"lora"} - UNREADABLE_BY_LYCORIS))
def test_what_lycoris_puts_on_a_model_gives_the_output_that_was_trained(kind: str) -> None:
    model, other, network = read_by_lycoris(kind)
    network.apply_to()
    network.eval()
    changed = (output(model.eval()) - output(Model())).detach()
    assert torch.allclose(output(other) - output(Model()), changed, atol=1e-4 * float(changed.abs().max()))


@pytest.mark.parametrize("kind", sorted(UNREADABLE_BY_LYCORIS))
def test_lycoris_still_cannot_read_its_own_files_of_some_kinds(kind: str) -> None:
    # When this fails, take the kind out of UNREADABLE_BY_LYCORIS: its output can be compared, too.
    with pytest.raises(TypeError, match="make_module_from_state_dict"):
        read_by_lycoris(kind)


def read_by_lycoris(kind: str) -> tuple[Model, Model, Any]:
    """Return a trained model, another one, and LyCORIS's network for that one from the file of the first."""
    config = AdapterConfig.model_validate({"type": kind, "rank": 4, "alpha": 3.0})
    model, _ = on_model(kind, conv_rank=2)
    layers = ADAPTERS[kind].layers(ADAPTERS[kind].state(model), config)
    tensors = {
        f"lycoris_{name.replace('.', '_')}.{end}": tensor
        for name, layer in layers.items()
        for end, tensor in named_tensors(layer).items()
    }
    other = Model()
    network, _ = create_lycoris_from_weights(1.0, "", other, tensors)
    return model, other, network


def test_names_of_parameters_tell_their_module() -> None:
    for kind in ADAPTERS:
        _, parameters = on_model(kind)
        assert {module_of(name) for name in parameters} == {
            f"blocks.{number}.{name}" for number in (0, 1) for name in ("to_q", "to_k", "proj")
        } | ({"blocks.0.conv", "blocks.1.conv"} if kind == "locon" else set())


def test_inputs_are_the_same_every_time() -> None:
    assert torch.equal(inputs(), inputs())


@pytest.mark.parametrize("shape", SHAPES)
def test_ia3_of_others_may_scale_inputs(shape: tuple[int, ...]) -> None:
    scales = torch.randn(shape[1], generator=torch.Generator().manual_seed(1))
    weight = scales if len(shape) == 2 else scales.reshape(1, -1, 1, 1)
    layer = as_layer("ia3", {"weight": weight, "on_input": torch.tensor(1)})
    assert lycoris_error(layer, layer, shape, 5) < 1e-6
