"""Optimizers by name, as data: the class, our arguments, its properties. A new optimizer is one row.

Nothing here imports torch, so rules, `check` and `plan` can ask about a name. docs/optimizers.md describes each.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field

from trainer_core.types import JSON

LIBRARIES = ("torch.optim", "pytorch_optimizer", "bitsandbytes.optim")
"""Where a dotted name may point to."""


@dataclass(frozen=True)
class OptimizerRow:
    """One name of the table."""

    path: str
    """Module and class."""
    args: Mapping[str, JSON] = field(default_factory=dict[str, JSON])
    """Arguments in place of the class's own defaults; `optimizer.args` goes before them."""
    adaptive: bool = False
    """It finds its own rate; `optimizer.lr` is a multiplier of that."""
    draws: bool = False
    """It may draw random numbers in a step."""
    lr: float = 1e-4
    """Where to begin with `optimizer.lr` for a LoRA."""


def _adaptive(name: str, growth_rate: float | None = None, lr: float = 1.0, decoupled: bool = True) -> OptimizerRow:
    """Return the row of an optimizer that finds its own rate.

    `growth_rate` limits how fast its estimate may grow in a step. Without a limit, the class's own choice, the first
    estimates of DAdaptAdam and DAdaptAdan are so high that the loss rises or explodes (docs/optimizers.md).
    """
    limit: Mapping[str, JSON] = {} if growth_rate is None else {"growth_rate": growth_rate}
    return OptimizerRow(f"pytorch_optimizer.{name}", {"weight_decouple": decoupled, **limit}, adaptive=True, lr=lr)


_FIXED_RATE: Mapping[str, JSON] = {
    "relative_step": False,
    "scale_parameter": False,
    "warmup_init": False,
    "betas": (None, 0.999),
}
"""Adafactor at the rate that is asked for, without a first moment, which is what saves the memory."""

_NESTEROV: Mapping[str, JSON] = {"momentum": 0.9, "nesterov": True}
"""bitsandbytes refuses a momentum of 0, its own default."""

_PRODIGY: Mapping[str, JSON] = {"weight_decouple": True, "safeguard_warmup": True, "bias_correction": True}
"""The authors' advice for diffusion models; without it a warm-up makes the estimate far too high."""

OPTIMIZERS: Mapping[str, OptimizerRow] = {
    "adamw": OptimizerRow("torch.optim.AdamW"),
    "adamw8bit": OptimizerRow("bitsandbytes.optim.AdamW8bit"),
    "pagedadamw": OptimizerRow("bitsandbytes.optim.PagedAdamW"),
    "pagedadamw8bit": OptimizerRow("bitsandbytes.optim.PagedAdamW8bit"),
    "pagedadamw32bit": OptimizerRow("bitsandbytes.optim.PagedAdamW32bit"),
    "lion": OptimizerRow("pytorch_optimizer.Lion", lr=2e-5),
    "lion8bit": OptimizerRow("bitsandbytes.optim.Lion8bit", lr=2e-5),
    "pagedlion8bit": OptimizerRow("bitsandbytes.optim.PagedLion8bit", lr=2e-5),
    "sgdnesterov": OptimizerRow("torch.optim.SGD", _NESTEROV, lr=0.1),
    "sgdnesterov8bit": OptimizerRow("bitsandbytes.optim.SGD8bit", _NESTEROV, lr=0.1),
    "adafactor": OptimizerRow("pytorch_optimizer.AdaFactor", _FIXED_RATE),
    "prodigy": OptimizerRow("pytorch_optimizer.Prodigy", _PRODIGY, adaptive=True, lr=1.0),
    "dadaptadam": _adaptive("DAdaptAdam", growth_rate=1.2),
    # It computes weights anew from where they began, which undoes a decoupled decay.
    "dadaptadagrad": _adaptive("DAdaptAdaGrad", decoupled=False),
    "dadaptadan": _adaptive("DAdaptAdan", growth_rate=1.2),
    "dadaptsgd": _adaptive("DAdaptSGD", lr=0.1),
    "dadaptlion": _adaptive("DAdaptLion"),
    "adamwschedulefree": OptimizerRow("pytorch_optimizer.ScheduleFreeAdamW", lr=5e-4),
    "radamschedulefree": OptimizerRow("pytorch_optimizer.ScheduleFreeRAdam", lr=5e-4),
    "sgdschedulefree": OptimizerRow("pytorch_optimizer.ScheduleFreeSGD", lr=0.5),
}

ALIASES: Mapping[str, str] = {
    "dadaptation": "dadaptadam",
    "dadaptadampreprint": "dadaptadam",
    "dadaptadanip": "dadaptadan",
    "schedulefreeadamw": "adamwschedulefree",
    "schedulefreeradam": "radamschedulefree",
    "schedulefreesgd": "sgdschedulefree",
    "sgd8bit": "sgdnesterov8bit",
}
"""Other names that people know, kohya's among them."""

REFUSED: Mapping[str, str] = {
    "AdaHessian": "it needs second derivatives, which the loop does not compute",
    "SophiaH": "it needs second derivatives, which the loop does not compute",
    "LBFGS": "it evaluates the loss several times a step, which the loop does not do",
    "SAM": "it evaluates the loss twice a step, which the loop does not do",
    "GSAM": "it evaluates the loss twice a step, which the loop does not do",
    "WSAM": "it evaluates the loss twice a step, which the loop does not do",
    "BSAM": "it evaluates the loss twice a step, which the loop does not do",
    "LookSAM": "it evaluates the loss twice a step, which the loop does not do",
    "FriendlySAM": "it evaluates the loss twice a step, which the loop does not do",
    "LOMO": "it updates weights inside the backward pass of a whole model",
    "AdaLOMO": "it updates weights inside the backward pass of a whole model",
    "SparseAdam": "it takes sparse gradients only, and an adapter's are dense",
    "Optimizer": "it is a base class",
    "BaseOptimizer": "it is a base class",
    "GlobalOptimManager": "it is no optimizer",
}
"""Class -> why it cannot train here, for classes whose signature does not tell."""


def plain_name(name: str) -> str:
    """Return a name, spelled as the settings spell it, as the table knows it; dotted names stay."""
    return ALIASES.get(name, name)


def find_row(name: str) -> OptimizerRow | None:
    """Return the row of a name: that of the table, one made for a dotted class, or None for an unknown name."""
    if "." not in name:
        return OPTIMIZERS.get(plain_name(name))
    library, _, _ = name.rpartition(".")
    adaptive = any(row.adaptive and row.path.lower() == name.lower() for row in OPTIMIZERS.values())
    # Some of the libraries' classes draw in a step; none of the table does.
    return OptimizerRow(name, adaptive=adaptive, draws=True) if library in LIBRARIES else None


def finds_its_rate(name: str) -> bool:
    """Say whether an optimizer of the table, or the class of one, finds its own rate."""
    row = find_row(name)
    return row is not None and row.adaptive


def draws_numbers(name: str) -> bool:
    """Say whether an optimizer may draw random numbers in a step."""
    row = find_row(name)
    return row is not None and row.draws


def nearest_name(name: str) -> str | None:
    """Return the name of the table that was probably meant."""
    known = [*OPTIMIZERS, *ALIASES]
    found = difflib.get_close_matches(name.rpartition(".")[2].lower(), known, n=1, cutoff=0.6)
    return ALIASES.get(found[0], found[0]) if found else None
