from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainer_core.config.groups import OptimizerConfig
from trainer_core.config.optimizers import OPTIMIZERS, plain_name
from trainer_core.errors import ConfigError
from trainer_core.train.optim.build import TrainedPart, build_optimizer, effective_lr, is_up_matrix
from trainer_core.train.optim.findings import check_optimizer, is_adaptive, optimizer_class
from trainer_core.train.optim.state import optimizer_state, restore_optimizer
from trainer_core.train.optim.state_tree import pack, unpack
from trainer_core.train.run_state.checkpoint import TrainState, load_latest, save_state

TOY_RATES = {"sgdnesterov": 0.5, "sgdnesterov8bit": 0.5, "sgdschedulefree": 5.0, "radamschedulefree": 0.05}
"""Rates for the small problem; others take 0.01, and those that find their own the table's."""
STEPS = {"dadaptsgd": 250}
PAGED = pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
"""bitsandbytes pages state between GPU and CPU only."""

Loss = Callable[[], Tensor]


def rate_of(name: str) -> float:
    return OPTIMIZERS[name].lr if OPTIMIZERS[name].adaptive else TOY_RATES.get(name, 0.01)


def lora_problem() -> tuple[dict[str, nn.Parameter], Loss]:
    """A LoRA of rank 32 on one 256 x 256 layer (8192 values a factor, so that 8-bit state is 8-bit)."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    down, up = nn.Parameter(normal(32, 256) / 16), nn.Parameter(torch.zeros(256, 32))
    inputs, wanted = normal(64, 256), normal(256, 8) @ normal(8, 256) / 45
    targets = inputs @ wanted.T
    return (
        {"layer.lora_A.weight": down, "layer.lora_B.weight": up},
        lambda: (inputs @ down.T @ up.T - targets).square().mean(),
    )


def part(parameters: Mapping[str, nn.Parameter], lr: float) -> TrainedPart:
    return TrainedPart("unet", nn.Module(), parameters, lr)


def built(config: OptimizerConfig, parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
    return build_optimizer([part(parameters, config.lr)], config, scaled=False)


def descend(loss: Loss, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    losses: list[float] = []
    for _ in range(steps):
        value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(value.detach()))
    return losses


def trained(config: OptimizerConfig, steps: int) -> dict[str, nn.Parameter]:
    parameters, loss = lora_problem()
    descend(loss, built(config, parameters), steps)
    return parameters


def one_step(config: OptimizerConfig) -> Tensor:
    """Where a weight of 1 is after one step with gradient 1."""
    weight = nn.Parameter(torch.ones(4, 4))
    optimizer = built(config, {"w": weight})
    weight.grad = torch.ones(4, 4)
    optimizer.step()
    return weight.detach()


@PAGED
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.setting("optimizer.name", "optimizer.lr")
def test_every_optimizer_of_the_table_makes_the_loss_fall(name: str) -> None:
    parameters, loss = lora_problem()
    optimizer = built(OptimizerConfig(name=name, lr=rate_of(name)), parameters)
    losses = descend(loss, optimizer, STEPS.get(name, 100))
    assert losses[-1] < losses[0] / 2, losses[::10]


@PAGED
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.setting("optimizer.name")
def test_every_optimizer_of_the_table_goes_on_bit_for_bit_from_a_checkpoint(name: str, tmp_path: Path) -> None:
    config = OptimizerConfig(name=name, lr=rate_of(name), lora_plus_ratio=1.0 if OPTIMIZERS[name].adaptive else 4.0)
    went_on, whole = resumed(config, tmp_path)
    for key in whole:
        assert torch.equal(went_on[key], whole[key])


def resumed(config: OptimizerConfig, folder: Path, before: int = 6, after: int = 5) -> tuple[Any, Any]:
    """The weights of a run that was stopped and went on from its files, and those of the run in one go."""
    first, loss = lora_problem()
    optimizer = built(config, first)
    descend(loss, optimizer, before)
    save_state(folder, TrainState(before, {k: v.detach() for k, v in first.items()}, optimizer_state(optimizer)))
    state = load_latest(folder)
    assert state is not None
    second, loss = lora_problem()
    with torch.no_grad():
        for name, parameter in second.items():
            parameter.copy_(state.adapter[name])
    again = built(config, second)
    restore_optimizer(again, state.optimizer)
    descend(loss, again, after)
    return second, trained(config, before + after)


class Halved(torch.optim.Optimizer):
    """Keeps a moment in bfloat16 and a list, and counts its steps on itself, as some of the libraries do."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1})
        self.calls = 0

    def step(self, closure: Any = None) -> None:
        self.calls += 1
        for group in self.param_groups:
            group["sum"] = group.get("sum", torch.zeros(())) + 1
            for weight in group["params"]:
                state = self.state[weight]
                state.setdefault("moment", torch.zeros_like(weight, dtype=torch.bfloat16)).mul_(0.7).add_(weight.grad)
                state.setdefault("list", [torch.zeros(2, dtype=torch.bfloat16), None])[0].add_(0.3)
                with torch.no_grad():
                    weight.sub_(state["moment"].float() * self.calls * float(group["sum"]) * float(state["list"][0][0]))


@pytest.mark.parametrize("left_out", ["", "attributes"])
def test_state_of_other_precisions_in_lists_in_groups_and_on_the_optimizer_comes_back(left_out: str) -> None:
    def start(values: Tensor) -> tuple[nn.Parameter, Halved]:
        weight = nn.Parameter(values.clone())
        return weight, Halved([weight])

    def step(weight: nn.Parameter, optimizer: Halved) -> None:
        weight.grad = torch.sin(weight.detach())
        optimizer.step()

    first, optimizer = start(torch.linspace(-1, 1, 16))
    for _ in range(3):
        step(first, optimizer)
    state = unpack(*pack(optimizer_state(optimizer)))
    second, again = start(first.detach())
    restore_optimizer(again, state | ({"attributes": {}} if left_out else {}))
    for weight, one in ((first, optimizer), (second, again)):
        step(weight, one)
    assert torch.equal(first, second) is not bool(left_out)


def test_eight_bit_moments_take_a_quarter_of_the_memory() -> None:
    parameters, loss = lora_problem()
    optimizer = built(OptimizerConfig(name="adamw8bit"), parameters)
    descend(loss, optimizer, 1)
    assert optimizer.state[parameters["layer.lora_B.weight"]]["state1"].dtype == torch.uint8


@pytest.mark.parametrize("name", ["AdamW8bit", "DAdaptation", "PagedLion8bit", "SGDNesterov8bit", "AdaFactor", "Lion"])
def test_kohyas_spellings_are_known(name: str) -> None:
    config = OptimizerConfig(name=name, lr=1.0)
    assert plain_name(config.name) in OPTIMIZERS
    assert not check_optimizer(config)


def test_a_name_spelled_otherwise_is_the_same_setting() -> None:
    assert OptimizerConfig(name="AdamW_8bit") == OptimizerConfig(name="adamw8bit")


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("torch.optim.RAdam", "RAdam"),
        ("torch.optim.radam", "RAdam"),
        ("pytorch_optimizer.Adafactor", "AdaFactor"),
        ("pytorch_optimizer.CAME", "CAME"),
        ("bitsandbytes.optim.AdEMAMix8bit", "AdEMAMix8bit"),
    ],
)
@pytest.mark.setting("optimizer.name")
def test_any_class_of_the_libraries_is_taken_by_its_path(name: str, cls: str) -> None:
    config = OptimizerConfig(name=name, lr=0.01)
    assert optimizer_class(config).__name__ == cls
    parameters, loss = lora_problem()
    losses = descend(loss, built(config, parameters), 60)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("settings", "field", "text"),
    [
        ({"name": "adanw"}, "optimizer.name", "Did you mean `adamw`?"),
        ({"name": "my.Optimizer"}, "optimizer.name", "Known: adamw"),
        ({"name": "torch.optim.Adamm"}, "optimizer.name", "Did you mean `torch.optim.Adam`?"),
        ({"name": "torch.optim.LBFGS"}, "optimizer.name", "several times a step"),
        ({"name": "pytorch_optimizer.SAM"}, "optimizer.name", "twice a step"),
        ({"name": "pytorch_optimizer.AdaHessian"}, "optimizer.name", "second derivatives"),
        ({"name": "pytorch_optimizer.LOMO"}, "optimizer.name", "inside the backward pass"),
        ({"name": "pytorch_optimizer.Lookahead"}, "optimizer.name", "does not take plain parameters"),
        ({"name": "pytorch_optimizer.Ranger21"}, "optimizer.args", "needs `num_iterations`"),
        ({"name": "prodigy", "lr": 1.0, "args": {"d_coeff": 2}}, "optimizer.args.d_coeff", "Did you mean `d_coef`?"),
        ({"args": {"weight_decay": 0.1}}, "optimizer.args.weight_decay", "Set `optimizer.weight_decay`."),
        ({"name": "adafactor", "eps": 1e-6}, "optimizer.eps", "takes no `eps`"),
        ({"name": "sgdnesterov", "betas": (0.9, 0.99)}, "optimizer.betas", "takes no `betas`"),
        ({"name": "dadaptadan", "lr": 1.0, "betas": (0.9, 0.99)}, "optimizer.betas", "takes 3"),
        ({"name": "lion8bit", "implementation": "fused"}, "optimizer.implementation", "one implementation only"),
        ({"name": "sgdnesterov", "args": {"momentum": -1}}, "optimizer.args", "failed with these settings"),
        ({"name": "bitsandbytes.optim.SGD8bit"}, "optimizer.name", "failed with these settings"),
        ({"name": "pytorch_optimizer.Muon"}, "optimizer.name", "use_muon"),
        ({"name": "pytorch_optimizer.AdaShift"}, "optimizer.name", "a deque cannot be saved"),
        ({"name": "prodigy", "lr": 1.0, "lora_plus_ratio": 4}, "optimizer.lora_plus_ratio", "one rate for everything"),
        ({"name": "dadaptlion", "lr": 1, "text_encoder_lr": (0.5,)}, "optimizer.text_encoder_lr", "one rate"),
    ],
)
def test_what_an_optimizer_would_not_take_is_told_before_training(
    settings: dict[str, Any], field: str, text: str
) -> None:
    config = OptimizerConfig(**settings)
    (finding,) = check_optimizer(config)
    assert (finding.level, finding.field) == ("error", field)
    assert text in str(finding)
    with pytest.raises(ConfigError):
        built(config, lora_problem()[0])


def test_a_rate_that_an_optimizer_does_not_look_at_is_a_warning() -> None:
    (finding,) = check_optimizer(OptimizerConfig(name="adafactor", args={"relative_step": True}))
    assert (finding.level, finding.field) == ("warning", "optimizer.lr")
    assert "does not look at it" in str(finding)
    assert not check_optimizer(OptimizerConfig(name="prodigy", lr=1.0))


def test_a_name_of_the_table_is_checked_without_importing_a_library() -> None:
    import subprocess
    import sys

    code = (
        "import sys\nfrom trainer_core.config.groups import OptimizerConfig\n"
        "from trainer_core.train.optim.findings import check_optimizer\n"
        "check_optimizer(OptimizerConfig()), check_optimizer(OptimizerConfig(name='prodigy'))\n"
        "print([name for name in ('torch', 'pytorch_optimizer', 'bitsandbytes') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.setting("optimizer.weight_decay")
def test_weight_decay_is_decoupled_and_scaled_by_the_rate() -> None:
    # AdamW's first step is lr * sign(gradient) after the decay (arXiv 1711.05101).
    step = one_step(OptimizerConfig(lr=0.1, weight_decay=0.5))
    assert torch.allclose(step, torch.full((4, 4), 1 * (1 - 0.1 * 0.5) - 0.1))


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if not name.startswith("radam")])
@PAGED
@pytest.mark.setting("optimizer.weight_decay")
def test_every_optimizer_decays_weights(name: str) -> None:
    lr = max(rate_of(name), 0.01)
    plain, decayed = (trained(OptimizerConfig(name=name, lr=lr, weight_decay=decay), 40) for decay in (0.0, 0.9))
    assert not torch.equal(plain["layer.lora_A.weight"], decayed["layer.lora_A.weight"])


@pytest.mark.setting("optimizer.betas", "optimizer.eps")
def test_betas_and_eps_are_those_of_the_papers_formula() -> None:
    config = OptimizerConfig(name="torch.optim.Adam", lr=0.1, betas=(0.5, 0.75), eps=1e-2, weight_decay=0.0)
    weight = nn.Parameter(torch.ones(4, 4))
    optimizer = built(config, {"w": weight})
    first = second = 0.0
    expected = 1.0
    for step, gradient in enumerate((1.0, -3.0, 0.5), start=1):
        weight.grad = torch.full((4, 4), gradient)
        optimizer.step()
        # Adam, arXiv 1412.6980, algorithm 1
        first, second = 0.5 * first + 0.5 * gradient, 0.75 * second + 0.25 * gradient**2
        expected -= 0.1 * (first / (1 - 0.5**step)) / ((second / (1 - 0.75**step)) ** 0.5 + 1e-2)
    assert torch.allclose(weight, torch.full((4, 4), expected))


@pytest.mark.setting("optimizer.args")
def test_arguments_reach_the_class_and_lists_become_tuples() -> None:
    optimizer = built(OptimizerConfig(name="sgdnesterov", args={"momentum": 0.25}), lora_problem()[0])
    assert optimizer.param_groups[0]["momentum"] == 0.25
    assert optimizer.param_groups[0]["nesterov"] is True
    plain, other = (one_step(OptimizerConfig(name="adamw", lr=0.1, args=args)) for args in ({}, {"maximize": True}))
    assert float(plain[0, 0]) < 1 < float(other[0, 0])


@pytest.mark.setting("optimizer.implementation")
def test_the_implementation_is_the_one_asked_for_and_auto_is_fused_where_there_is_one() -> None:
    def switches(implementation: str, name: str = "adamw", scaled: bool = False) -> tuple[Any, Any]:
        config = OptimizerConfig(name=name, implementation=implementation)  # type: ignore[arg-type]
        group = build_optimizer([part(lora_problem()[0], 1e-4)], config, scaled).param_groups[0]
        return group.get("fused"), group["foreach"]

    assert switches("auto")[0] is True
    assert switches("auto", scaled=True)[0] is False
    assert switches("auto", name="torch.optim.RAdam") == (None, None)
    assert switches("fused")[0] is True
    assert switches("foreach") == (None, True)
    assert switches("loop") == (False, False)


@pytest.mark.parametrize(
    ("name", "up"),
    [
        ("mid_block.attentions.0.to_q.lora_B.default.weight", True),
        ("mid_block.attentions.0.to_q.lora_A.default.weight", False),
        ("lora_unet_to_q.lora_up.weight", True),
        ("lora_unet_to_q.lora_down.weight", False),
        ("lora_unet_to_q.hada_w2_a", True),
        ("lora_unet_to_q.hada_w1_a", False),
        ("lora_unet_to_q.lokr_w2_b", True),
        ("lora_unet_to_q.lokr_w1", False),
        ("lora_unet_to_q.a2.weight", True),
        ("lora_unet_to_q.b1.weight", False),
        ("to_q.lora_magnitude_vector.default.weight", False),
    ],
)
def test_up_matrices_are_the_factors_that_start_at_zero(name: str, up: bool) -> None:
    assert is_up_matrix(name) is up


@pytest.mark.setting("optimizer.lora_plus_ratio")
def test_lora_plus_moves_the_up_matrix_faster_and_the_down_matrix_as_before() -> None:
    def moves(ratio: float) -> tuple[float, float]:
        down, up = nn.Parameter(torch.zeros(4, 4)), nn.Parameter(torch.zeros(4, 4))
        config = OptimizerConfig(name="torch.optim.SGD", lr=0.1, lora_plus_ratio=ratio, weight_decay=0)
        optimizer = built(config, {"m.lora_A.weight": down, "m.lora_B.weight": up})
        down.grad = up.grad = torch.ones(4, 4)
        optimizer.step()
        return -float(down.detach()[0, 0]), -float(up.detach()[0, 0])

    assert moves(1.0) == pytest.approx((0.1, 0.1))
    assert moves(16.0) == pytest.approx((0.1, 1.6))


@pytest.mark.setting("optimizer.lora_plus_ratio")
def test_lora_plus_without_an_up_matrix_is_refused() -> None:
    with pytest.raises(ConfigError, match="starts at zero"):
        built(OptimizerConfig(lora_plus_ratio=16), {"to_k.weight": nn.Parameter(torch.ones(4))})


def test_parts_have_rates_of_their_own() -> None:
    parts = [part({"a.lora_B.weight": nn.Parameter(torch.zeros(2, 2))}, lr) for lr in (0.5, 0.25)]
    optimizer = build_optimizer(parts, OptimizerConfig(lora_plus_ratio=2), scaled=False)
    assert [group["peak_lr"] for group in optimizer.param_groups] == [1.0, 0.5]


def test_the_rate_that_is_told_is_the_one_that_acts() -> None:
    parameters, loss = lora_problem()
    optimizer = built(OptimizerConfig(name="prodigy", lr=0.5), parameters)
    descend(loss, optimizer, 80)
    assert effective_lr(optimizer) == pytest.approx(0.5 * optimizer.param_groups[0]["d"])
    assert optimizer.param_groups[0]["d"] > 2e-6, "it begins at 1e-6"


@pytest.mark.parametrize(
    ("settings", "adaptive"),
    [
        ({"name": "Prodigy"}, True),
        ({"name": "pytorch_optimizer.DAdaptSGD"}, True),
        ({"name": "adamw"}, False),
        ({"name": "adafactor"}, False),
        ({"name": "adafactor", "args": {"relative_step": True}}, True),
        ({"name": "torch.optim.Adam"}, False),
    ],
)
def test_optimizers_that_find_their_own_rate_are_known(settings: dict[str, Any], adaptive: bool) -> None:
    assert is_adaptive(OptimizerConfig(**settings)) is adaptive
