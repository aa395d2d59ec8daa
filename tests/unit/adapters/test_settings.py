"""Each setting of `adapter` and `adapter_options` does what it says."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.unit.adapters.support import Model, attach, gradients, inputs, on_model, output
from trainer_core.adapters.adapter import ADAPTERS, draws
from trainer_core.adapters.adapter_module import adapters_of
from trainer_core.adapters.settings import KNOWN_BY, adapter_findings
from trainer_core.config.groups import AdapterConfig, AdapterOptionsConfig
from trainer_core.errors import ConfigError

every = pytest.mark.parametrize("kind", sorted(ADAPTERS))
PRODUCTS = ("lora", "locon", "dora", "dylora")


def shapes(kind: str, options: Any = None, **config: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(one.shape) for name, one in on_model(kind, options, **config)[1].items()}


def layers(kind: str, options: Any = None, **config: Any) -> Any:
    model, _ = on_model(kind, options, **config)
    settings = AdapterConfig.model_validate({"type": kind, "rank": 4, "alpha": 3.0} | config)
    return ADAPTERS[kind].layers(ADAPTERS[kind].state(model), settings)


@pytest.mark.setting("adapter.rank")
@pytest.mark.parametrize("kind", [*PRODUCTS, "loha", "glora"])
def test_the_rank_is_the_width_of_the_factors(kind: str) -> None:
    more = dict(on_model(kind, rank=8, alpha=3.0)[1])
    assert sum(one.numel() for one in more.values()) > sum(one.numel() for one in on_model(kind)[1].values())


@pytest.mark.setting("adapter.alpha")
@pytest.mark.parametrize("kind", [*PRODUCTS[:2], "dylora", "loha", "lokr", "glora"])
def test_twice_the_alpha_is_twice_the_update_of_each_module(kind: str) -> None:
    changes = []
    for alpha in (3.0, 6.0):
        model, _ = on_model(kind, {"factor": 2} if kind == "lokr" else None, alpha=alpha)
        host, x = model.eval().get_submodule("blocks.0.to_q"), torch.ones(2, 32)
        changes.append(host(x) - Model().blocks[0].to_q(x))
    assert torch.allclose(changes[1], 2 * changes[0], rtol=1e-3, atol=1e-6)


@pytest.mark.setting("adapter_options.rslora")
@pytest.mark.parametrize("kind", [*PRODUCTS, "loha", "glora"])
def test_rslora_divides_alpha_by_the_square_root_of_the_rank(kind: str) -> None:
    for layer in layers(kind, {"rslora": True}).values():
        # alpha / sqrt(rank) of arXiv 2312.03732, in files that readers divide by the rank
        assert layer.alpha / 4 == pytest.approx(3.0 / math.sqrt(4))


@pytest.mark.setting("adapter.targets")
def test_targets_are_a_preset_or_a_regex_for_whole_names() -> None:
    assert set(layers("loha", targets="attention")) == {f"blocks.{n}.to_{one}" for n in (0, 1) for one in "qk"}
    assert set(layers("lora", targets=r"blocks\.1\.proj")) == {"blocks.1.proj"}


@pytest.mark.setting("adapter.conv_rank", "adapter.conv_alpha")
@every
def test_larger_convolutions_are_adapted_with_their_own_rank_and_alpha(kind: str) -> None:
    found = layers(kind, conv_rank=2, conv_alpha=5.0)
    assert set(found) - set(layers(kind)) == (set() if kind == "locon" else {"blocks.0.conv", "blocks.1.conv"})
    if kind in PRODUCTS:
        assert (found["blocks.0.conv"].rank, found["blocks.0.conv"].alpha) == (2, 5.0)
        assert (found["blocks.0.to_q"].rank, found["blocks.0.to_q"].alpha) == (4, 3.0)


@pytest.mark.setting("adapter.conv_alpha", "adapter.conv_rank")
def test_unless_told_convolutions_are_not_scaled_and_locon_takes_what_linear_layers_have() -> None:
    assert layers("lora", conv_rank=2)["blocks.0.conv"].scale == 1.0
    own = layers("locon")["blocks.0.conv"]
    assert (own.rank, own.alpha) == (4, 3.0)


@pytest.mark.setting("adapter.blocks")
@pytest.mark.parametrize("kind", ["lora", "locon", "dylora", "loha", "glora"])
def test_blocks_have_ranks_of_their_own_and_rank_0_leaves_modules_out(kind: str) -> None:
    blocks = {r".*\.to_q": {"rank": 8}, r"blocks\.1\..*": {"rank": 0}, r".*proj": {"rank": 4, "alpha": 1.0}}
    found = layers(kind, blocks=blocks, conv_rank=0)
    left = {"blocks.0.to_q", "blocks.1.to_q", "blocks.0.to_k", "blocks.0.proj"}
    assert set(found) - {"blocks.0.conv"} == left, "the first regex that fits counts"
    assert found["blocks.0.to_q"].alpha == 6.0, "the ratio of alpha to rank is kept"
    assert found["blocks.0.proj"].alpha == 1.0
    assert found["blocks.0.to_k"].alpha == 3.0


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ({"nothing": {"rank": 1}}, "matches none of the 6"),
        ({"(": {"rank": 1}}, "not a valid regex"),
        ({".*": {"rank": 0}}, "every module"),
    ],
)
def test_blocks_that_are_wrong_are_refused(blocks: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"adapter\.blocks.*{message}"):
        on_model("loha", blocks=blocks)


@pytest.mark.setting("adapter.dropout")
@pytest.mark.parametrize("kind", sorted(KNOWN_BY["adapter.dropout"]))
def test_dropout_drops_inputs_in_training_and_never_in_evaluation(kind: str) -> None:
    model, _ = on_model(kind, dropout=0.5)
    assert not torch.equal(output(model, 1), output(model, 2))
    assert torch.equal(output(model, 1), output(model, 1)), "what torch's seed decides"
    assert torch.equal(output(model.eval(), 1), output(on_model(kind)[0].eval(), 2))


@pytest.mark.setting("adapter.rank_dropout")
@pytest.mark.parametrize("kind", sorted(KNOWN_BY["adapter.rank_dropout"]))
def test_rank_dropout_leaves_the_mean_as_it_is_and_evaluation_alone(kind: str) -> None:
    options = {"factor": 2} if kind == "lokr" else None
    model, _ = on_model(kind, options, rank_dropout=0.25, rank=2, targets=r"blocks\.0\.to_q")
    host, x = model.get_submodule("blocks.0.to_q"), torch.ones(1, 32)
    torch.manual_seed(0)
    drawn = torch.stack([host(x).detach() for _ in range(400)])
    whole = model.eval().get_submodule("blocks.0.to_q")(x).detach()
    size = (whole - Model().blocks[0].to_q(x)).detach().norm()
    assert len(drawn.unique(dim=0)) == 4, "two ranks, each there or not"
    if kind != "dora":  # its norm is of what is left
        assert float((drawn.mean(0) - whole).norm() / size) < 0.15


@pytest.mark.setting("adapter.module_dropout")
@every
def test_module_dropout_leaves_whole_updates_out_and_still_gives_every_parameter_a_gradient(kind: str) -> None:
    model, parameters = on_model(kind, module_dropout=0.5, targets=r"blocks\.0\.to_q")
    host, x, plain = model.get_submodule("blocks.0.to_q"), torch.ones(1, 32), Model().blocks[0].to_q(torch.ones(1, 32))
    if kind == "locon":
        host = model.get_submodule("blocks.0.to_q")
    torch.manual_seed(0)
    dropped = [bool(torch.allclose(host(x), plain, atol=1e-7)) for _ in range(200)]
    assert 70 < sum(dropped) < 130
    assert gradients(model, parameters).keys() == parameters.keys()
    assert not torch.allclose(model.eval().get_submodule("blocks.0.to_q")(x), plain, atol=1e-7)


@pytest.mark.setting("adapter.train_norm")
@pytest.mark.parametrize("kind", sorted(KNOWN_BY["adapter.train_norm"]))
def test_norms_inside_blocks_are_trained_too(kind: str) -> None:
    model, parameters = on_model(kind, train_norm=True)
    norms = {f"blocks.{n}.{one}.{end}" for n in (0, 1) for one in ("norm", "group") for end in ("w_norm", "b_norm")}
    assert norms <= parameters.keys()
    assert all(float(gradients(model, parameters)[name].abs().sum()) > 0 for name in norms)
    group: Any = model.get_submodule("blocks.0.group")
    change = adapters_of(model)["blocks.0.group"].tensors()
    x = torch.randn(2, 32, 2, 2, generator=torch.Generator().manual_seed(3))
    wanted = functional.group_norm(x, 4, group.weight + change["w_norm"], group.bias + change["b_norm"], group.eps)
    assert torch.allclose(group(x), wanted, atol=1e-6)


@pytest.mark.setting("adapter_options.block_size")
def test_dylora_trains_one_block_of_ranks_at_a_time_and_all_truncations_are_of_one_size() -> None:
    model, parameters = on_model("dylora", {"block_size": 2}, targets=r"blocks\.0\.to_q")
    down, up = parameters["blocks.0.to_q.lora_down.weight"], parameters["blocks.0.to_q.lora_up.weight"]
    host, x, plain = model.get_submodule("blocks.0.to_q"), torch.ones(1, 32), Model().blocks[0].to_q(torch.ones(1, 32))
    seen: set[tuple[bool, ...]] = set()
    for seed in range(12):
        own = gradients(model, parameters, seed)
        trained = tuple(bool(row.any()) for row in own["blocks.0.to_q.lora_down.weight"])
        seen.add(trained)
        torch.manual_seed(seed)
        used = 2 if trained == (True, True, False, False) else 4
        # kohya's scale: alpha / rank * sqrt(rank / ranks in use)
        wanted = plain + 3.0 / 4 * math.sqrt(4 / used) * (x @ down[:used].T @ up[:, :used].T)
        drawn = host(x)
        assert torch.allclose(drawn, wanted, atol=1e-5)
    assert seen == {(True, True, False, False), (False, False, True, True)}
    assert draws(AdapterConfig(type="dylora")), "the loop seeds its draws"


@pytest.mark.setting("adapter_options.block_size")
@pytest.mark.parametrize(("kind", "shape"), [("diag-oft", (16, 2, 2)), ("boft", (5, 16, 2, 2))])
def test_block_size_is_the_side_of_a_rotated_block(kind: str, shape: tuple[int, ...]) -> None:
    assert shapes(kind, {"block_size": 2}, targets="blocks.0.to_k")["blocks.0.to_k.oft_blocks"] == shape


def test_a_block_size_that_fits_no_butterfly_names_one_that_does() -> None:
    with pytest.raises(
        ConfigError, match=r"adapter_options\.block_size.*of 3 do not fit.*least that fits all modules is 18"
    ):
        model = Model()
        model.blocks[0].to_k = nn.Linear(64, 36)
        attach(model, "boft", {"block_size": 3}, targets=r"blocks\.0\.to_[qk]")


@pytest.mark.setting("adapter_options.constraint")
@pytest.mark.parametrize("kind", ["diag-oft", "boft"])
def test_the_constraint_limits_how_far_outputs_are_turned(kind: str) -> None:
    changes = []
    for constraint in (0.0, 0.01, 0.001):
        model, _ = on_model(kind, {"constraint": constraint}, noise=0.5, targets=r"blocks\.0\.to_q")
        x = torch.ones(1, 32)
        changes.append(float((model.get_submodule("blocks.0.to_q")(x) - Model().blocks[0].to_q(x)).detach().norm()))
    assert changes[0] > changes[1] > changes[2] > 0
    # |Q| <= constraint * outputs, as LyCORIS has it
    blocks = adapters_of(model)["blocks.0.to_q"].tensors()["oft_blocks"]
    assert float((blocks - blocks.transpose(-1, -2)).detach().norm()) > 0.001 * 64


@pytest.mark.setting("adapter_options.rescaled")
@pytest.mark.parametrize("kind", ["diag-oft", "boft"])
def test_rescaled_trains_a_factor_of_each_output_and_rotations_keep_lengths(kind: str) -> None:
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
    plain = Model().blocks[0].to_q
    before = (plain(x) - plain.bias).norm(dim=1)
    for rescaled in (False, True):
        model, parameters = on_model(kind, {"rescaled": rescaled}, targets=r"blocks\.0\.to_q")
        after = (model.get_submodule("blocks.0.to_q")(x) - plain.bias).norm(dim=1)
        assert torch.allclose(after, before, rtol=1e-5) is not rescaled
        assert ("blocks.0.to_q.rescale" in parameters) is rescaled


@pytest.mark.setting("adapter_options.factor")
def test_factor_is_the_smaller_side_of_the_kronecker_product() -> None:
    assert shapes("lokr", {"factor": 2})["blocks.0.to_q.lokr_w1"] == (2, 2)
    assert shapes("lokr")["blocks.0.to_q.lokr_w1"] == (8, 4), "64 x 32 outputs by inputs, as evenly as can be"


@pytest.mark.setting("adapter_options.full_matrix")
def test_full_matrix_has_no_low_rank_factors() -> None:
    assert shapes("lokr", {"full_matrix": True, "factor": 2})["blocks.0.to_q.lokr_w2"] == (32, 16)
    assert "blocks.0.to_q.lokr_w2_a" in shapes("lokr", {"factor": 2})


@pytest.mark.setting("adapter_options.tucker")
@pytest.mark.parametrize(("kind", "tensor"), [("locon", "lora_mid.weight"), ("loha", "hada_t1"), ("lokr", "lokr_t2")])
def test_tucker_takes_kernels_apart(kind: str, tensor: str) -> None:
    options = {"tucker": True, **({"factor": 2} if kind == "lokr" else {})}
    assert shapes(kind, options, conv_rank=4)[f"blocks.0.conv.{tensor}"] == (4, 4, 3, 3)


@pytest.mark.setting("adapter_options.decompose")
@pytest.mark.parametrize("kind", ["dora", "locon", "loha", "lokr"])
def test_decomposed_weights_have_the_trained_magnitudes(kind: str) -> None:
    model, _ = on_model(kind, {"decompose": kind != "dora"}, targets=r"blocks\.0\.to_q")
    host: Any = model.eval().get_submodule("blocks.0.to_q")
    weight = (host(torch.eye(32)) - host.bias).T
    magnitudes = adapters_of(model)["blocks.0.to_q"].tensors()["dora_scale"]
    # arXiv 2402.09353, equation 5: the rows of the changed weight are as long as the magnitudes say
    assert torch.allclose(weight.norm(dim=1), magnitudes.flatten().abs(), rtol=1e-4)


def test_dora_is_pefts(kind: str = "dora") -> None:
    """The same tensors in PEFT's DoRA give the same output and gradients."""
    from peft import LoraConfig, inject_adapter_in_model

    model, parameters = on_model(kind, conv_rank=4, conv_alpha=3.0)
    other, pattern = Model(), r"blocks\.\d+\.(to_[qk]|proj|conv)"
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=3, target_modules=pattern, use_dora=True), other)
    tuned: dict[str, Any] = {name: one for name, one in other.named_modules() if hasattr(one, "lora_magnitude_vector")}
    with torch.no_grad():
        for name, module in tuned.items():
            module.lora_A["default"].weight.copy_(parameters[f"{name}.lora_down.weight"])
            module.lora_B["default"].weight.copy_(parameters[f"{name}.lora_up.weight"])
            magnitude = module.lora_magnitude_vector["default"].weight
            magnitude.copy_(parameters[f"{name}.dora_scale"].reshape(magnitude.shape))
    assert torch.allclose(output(other), output(model), atol=1e-5)
    theirs = {name: one for name, one in other.named_parameters() if one.requires_grad}
    own, others = gradients(model, parameters), gradients(other, theirs)
    for name in tuned:
        found = others[f"{name}.lora_A.default.weight"]
        assert torch.allclose(own[f"{name}.lora_down.weight"], found, rtol=1e-3, atol=1e-4), name


@every
def test_what_a_kind_does_not_support_is_refused_with_the_kinds_that_do(kind: str) -> None:
    values = {"factor": 2, "block_size": 2, "constraint": 0.1, "dropout": 0.1, "rank_dropout": 0.1}
    for setting, kinds in KNOWN_BY.items():
        group, _, name = setting.partition(".")
        given = {name: values.get(name, True)}
        adapter = AdapterConfig.model_validate({"type": kind} | (given if group == "adapter" else {}))
        options = AdapterOptionsConfig.model_validate(given if group == "adapter_options" else {})
        found = [
            one
            for one in adapter_findings(adapter, options)
            if one.field == setting and "does not support" in one.message
        ]
        assert bool(found) is (kind not in kinds), setting
        assert not found or (found[0].level == "error" and all(other in found[0].fix for other in kinds))


@pytest.mark.parametrize(
    ("adapter", "options", "field", "level"),
    [
        ({"type": "dylora", "rank": 6}, {}, "adapter_options.block_size", "error"),
        ({"type": "dylora", "rank": 8}, {"block_size": 3}, "adapter_options.block_size", "error"),
        ({"rank_from_weights": True}, {}, "adapter.rank_from_weights", "error"),
        ({"type": "lokr", "rank_dropout": 0.1}, {"full_matrix": True}, "adapter.rank_dropout", "error"),
        ({"type": "lokr"}, {"full_matrix": True, "rslora": True}, "adapter_options.rslora", "error"),
        ({"type": "full", "alpha": 4}, {}, "adapter.alpha", "warning"),
        ({"conv_alpha": 4}, {}, "adapter.conv_alpha", "warning"),
        ({"type": "loha"}, {"tucker": True}, "adapter_options.tucker", "warning"),
    ],
)
def test_combinations_that_cannot_work_or_do_nothing_are_told(
    adapter: Any, options: Any, field: str, level: str
) -> None:
    found = adapter_findings(AdapterConfig.model_validate(adapter), AdapterOptionsConfig.model_validate(options))
    assert [(one.field, one.level) for one in found] == [(field, level)]


def test_the_defaults_and_every_kind_alone_are_fine() -> None:
    for kind in ADAPTERS:
        assert adapter_findings(AdapterConfig.model_validate({"type": kind}), AdapterOptionsConfig()) == []


def test_a_quantised_base_is_refused_where_its_weights_are_needed() -> None:
    for kind, wrong in (("glora", True), ("dora", True), ("loha", False), ("ia3", False)):
        model = Model()
        # a weight as packed formats keep it: numbers in another shape
        packed = nn.Parameter(torch.zeros(1024, dtype=torch.uint8), requires_grad=False)
        model.blocks[0].to_q.weight = packed
        if wrong:
            with pytest.raises(ConfigError, match=rf"adapter\.type.*{kind} computes with the base's weights"):
                attach(model, kind)
        else:
            attach(model, kind)


@pytest.mark.parametrize("kind", ["lora", "loha"])
def test_an_adapter_depends_on_its_seed_alone(kind: str) -> None:
    def start(seed: int, noise: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(noise)
        model = Model()
        attach(model, kind, seed=seed)
        return ADAPTERS[kind].state(model)

    first, same, other = start(1, 5), start(1, 6), start(2, 5)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
    assert inputs().shape == (3, 4, 8)


def test_settings_for_which_a_base_has_no_modules_are_told(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.ModuleDict({"blocks": nn.ModuleList([nn.ModuleDict({"to_q": nn.Linear(8, 8)})])})
    attach(model, "loha", conv_rank=4, train_norm=True)
    assert [line.partition(":")[0] for line in caplog.messages] == ["adapter.conv_rank", "adapter.train_norm"]


def test_ranks_that_cannot_be_dropped_are_told(caplog: pytest.LogCaptureFixture) -> None:
    on_model("lokr", rank=64, rank_dropout=0.5)
    assert "adapter.rank_dropout: 6 of 6 modules have no ranks to drop" in caplog.messages


def test_a_group_norm_over_a_frozen_input_has_gradients() -> None:
    """With a weight and no gradient for its input, torch's own backward pass of a group norm ended in a crash."""
    model = nn.ModuleDict(
        {"blocks": nn.ModuleList([nn.ModuleDict({"norm": nn.GroupNorm(4, 8), "to_q": nn.Linear(4, 4)})])}
    )
    parameters = attach(model, "loha", targets=".*to_q", train_norm=True)
    model.get_submodule("blocks.0.norm")(torch.randn(2, 8, 4, 4)).square().sum().backward()
    assert all(parameters[f"blocks.0.norm.{end}"].grad is not None for end in ("w_norm", "b_norm"))
