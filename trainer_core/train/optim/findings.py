"""Checks of an optimizer's name and arguments, before anything heavy begins.

Classes are imported only when the settings ask for more than a name of the table: pytorch_optimizer alone takes
seconds.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from trainer_core.config.groups import OptimizerConfig
from trainer_core.config.optimizers import LIBRARIES, OPTIMIZERS, REFUSED, OptimizerRow, find_row, nearest_name
from trainer_core.errors import ConfigError
from trainer_core.lazy import torch
from trainer_core.types import Finding

_OWN = {
    "lr": "lr",
    "weight_decay": "weight_decay",
    "betas": "betas",
    "eps": "eps",
    "fused": "implementation",
    "foreach": "implementation",
}
"""Argument -> the setting that gives it."""
_SWITCHES = {"fused": {"fused": True}, "foreach": {"foreach": True}, "loop": {"foreach": False, "fused": False}}
_PARAMS = "params"


def check_optimizer(config: OptimizerConfig) -> list[Finding]:
    """Return what is wrong with the name, and with each argument that the class would not take."""
    row = find_row(config.name)
    if row is None:
        return [_unknown(config.name)]
    if not _asks_for_more(config):
        return _rates(config)
    try:
        cls = optimizer_class(config)
    except ConfigError as error:
        return list(error.findings)
    return [*(_argument_findings(cls, row, config) or _try_out(cls, row, config)), *_rates(config)]


def optimizer_class(config: OptimizerConfig) -> type[Any]:
    """Import the class of a name.

    Raises:
        ConfigError: there is none, or it cannot train here.
    """
    row = find_row(config.name)
    if row is None:
        raise ConfigError([_unknown(config.name)])
    library, _, name = row.path.rpartition(".")
    module = importlib.import_module(library)
    classes = {key.lower(): value for key, value in vars(module).items() if inspect.isclass(value)}
    cls = getattr(module, name, None) or classes.get(name.lower())
    if not inspect.isclass(cls):
        raise ConfigError([_unknown(config.name, [cls.__name__ for cls in classes.values()])])
    if reason := _refusal(cls):
        fix = "Use `adamw`, or another of docs/optimizers.md."
        raise ConfigError(
            [Finding("error", "optimizer.name", f"{config.name} cannot train an adapter: {reason}.", fix)]
        )
    return cls


def arguments(cls: type[Any], config: OptimizerConfig, scaled: bool = False) -> dict[str, Any]:
    """Return the arguments of the class, without its parameters.

    Args:
        cls: what `optimizer_class` returned.
        config: its settings.
        scaled: gradients go through a scaler (fp16), with which `auto` takes torch's plain kernels.
    """
    row, takes = find_row(config.name), _takes(cls)
    assert row is not None, "an unknown name has no class"
    given = {**row.args, "lr": config.lr}
    if "weight_decay" in takes:
        given["weight_decay"] = config.weight_decay
    if config.betas is not None:
        given["betas"] = config.betas
    if config.eps is not None:
        given["eps"] = config.eps
    # JSON has no tuples, and optimizers ask for them.
    given |= {name: tuple(value) if isinstance(value, list) else value for name, value in config.args.items()}
    if config.implementation != "auto":
        given |= {name: value for name, value in _SWITCHES[config.implementation].items() if name in takes}
    elif "fused" in takes:
        # One pass over a tensor for the whole update.
        given["fused"] = not scaled
    return given


def is_adaptive(config: OptimizerConfig) -> bool:
    """Whether the optimizer finds its own rate, so that `lr` is a multiplier."""
    row = find_row(config.name)
    if row is None:
        return False
    if row.adaptive or "." not in config.name:
        return row.adaptive or config.args.get("relative_step") is True
    return "d0" in _takes(optimizer_class(config))


def _asks_for_more(config: OptimizerConfig) -> bool:
    plain = OptimizerConfig()
    return "." in config.name or any(
        getattr(config, name) != getattr(plain, name) for name in ("args", "betas", "eps", "implementation")
    )


def _unknown(name: str, classes: list[str] | None = None) -> Finding:
    """Return the finding of an unknown name, with the nearest one of the table or of the library."""
    library, _, wanted = name.rpartition(".")
    if classes is not None:
        near = difflib.get_close_matches(wanted, classes, n=1, cutoff=0.5)
        fix = f"Did you mean `{library}.{near[0]}`?" if near else "docs/optimizers.md has a table."
        return Finding("error", "optimizer.name", f"{library} has no optimizer `{wanted}`.", fix)
    meant = nearest_name(name)
    hint = f"Did you mean `{meant}`? " if meant else ""
    fix = f"{hint}Known: {', '.join(OPTIMIZERS)}; or a class by its path in {', '.join(LIBRARIES)}."
    return Finding("error", "optimizer.name", f"there is no optimizer `{name}`.", fix)


def _refusal(cls: type[Any]) -> str | None:
    if reason := REFUSED.get(cls.__name__):
        return reason
    step = getattr(cls, "step", None)
    if not callable(step) or not hasattr(cls, "zero_grad"):
        return "it is no optimizer"
    closure = inspect.signature(step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        return "it evaluates the loss itself, several times a step"
    return None if _PARAMS in inspect.signature(cls).parameters else "it does not take plain parameters"


def _takes(cls: type[Any]) -> Mapping[str, inspect.Parameter]:
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {
        name: argument for name, argument in inspect.signature(cls).parameters.items() if argument.kind not in kinds
    }


def _argument_findings(cls: type[Any], row: OptimizerRow, config: OptimizerConfig) -> list[Finding]:
    takes = _takes(cls)
    findings = [_own(name) for name in config.args if name in _OWN]
    findings += [_unknown_argument(name, cls) for name in config.args if name not in takes and name not in _OWN]
    for name in ("betas", "eps"):
        if getattr(config, name) is not None and name not in takes:
            message = f"is set, but {cls.__name__} takes no `{name}`. It takes {_listed(takes)}."
            findings.append(Finding("error", f"optimizer.{name}", message, "Remove it, or use `optimizer.args`."))
    findings += _betas(takes, config) + _implementation(cls, takes, config)
    given = {*row.args, *config.args, *_OWN, _PARAMS}
    needed = [
        name for name, argument in takes.items() if argument.default is inspect.Parameter.empty and name not in given
    ]
    for name in needed:
        fix = f"Give it: `optimizer: {{args: {{{name}: ...}}}}`."
        findings.append(Finding("error", "optimizer.args", f"{cls.__name__} needs `{name}`.", fix))
    return findings


def _own(name: str) -> Finding:
    setting = f"optimizer.{_OWN[name]}"
    return Finding("error", f"optimizer.args.{name}", f"is a setting of its own, `{setting}`.", f"Set `{setting}`.")


def _unknown_argument(name: str, cls: type[Any]) -> Finding:
    takes = [argument for argument in _takes(cls) if argument not in (*_OWN, _PARAMS)]
    near = difflib.get_close_matches(name, takes, n=1)
    fix = f"Did you mean `{near[0]}`?" if near else f"It takes {', '.join(takes)}."
    return Finding("error", f"optimizer.args.{name}", f"{cls.__name__} takes no `{name}`.", fix)


def _betas(takes: Mapping[str, inspect.Parameter], config: OptimizerConfig) -> list[Finding]:
    own = takes["betas"].default if "betas" in takes else None
    if config.betas is None or not isinstance(own, tuple) or len(own) == len(config.betas):
        return []
    message = f"has {len(config.betas)} values, but {config.name} takes {len(own)}: {', '.join(map(str, own))}."
    return [Finding("error", "optimizer.betas", message, f"Give {len(own)}.")]


def _implementation(cls: type[Any], takes: Mapping[str, inspect.Parameter], config: OptimizerConfig) -> list[Finding]:
    wanted = config.implementation
    if wanted == "auto" or any(name in takes for name in _SWITCHES[wanted]):
        return []
    message = f"is {wanted}, but {cls.__name__} has one implementation only."
    return [Finding("error", "optimizer.implementation", message, "Use `auto`.")]


def _listed(takes: Mapping[str, inspect.Parameter]) -> str:
    return ", ".join(name for name in takes if name != _PARAMS)


def _rates(config: OptimizerConfig) -> list[Finding]:
    """Return what is wrong with rates where the optimizer finds its own; it takes the first group's for all."""
    if not is_adaptive(config):
        return []
    name, findings = config.name, list[Finding]()
    if config.lora_plus_ratio != 1.0:
        message = f"is {config.lora_plus_ratio:g}, but {name} has one rate for everything, its own."
        findings.append(Finding("error", "optimizer.lora_plus_ratio", message, "Set it to 1, or use `adamw`."))
    if any(lr != config.lr for lr in config.text_encoder_lr):
        message = f"differs from optimizer.lr, but {name} has one rate for everything, its own."
        findings.append(Finding("error", "optimizer.text_encoder_lr", message, "Remove it, or use `adamw`."))
    if config.args.get("relative_step") is True:
        message = f"is {config.lr:g}, but with `relative_step` {name} does not look at it, nor at the schedule."
        findings.append(Finding("warning", "optimizer.lr", message, "Set `relative_step` to false to give a rate."))
    return findings


def _try_out(cls: type[Any], row: OptimizerRow, config: OptimizerConfig) -> list[Finding]:
    """Train a small matrix, stop and resume: errors of the class show now, not after the base model is loaded."""
    with torch.random.fork_rng(devices=[]):
        try:
            if _goes_on_exactly(cls, arguments(cls, config), config.lr):
                return []
            text = "a run that is stopped would not go on bit for bit: some of its state is out of reach"
        except Exception as error:  # noqa: BLE001 - whatever a library raises means the same to the user
            text = " ".join(f"{type(error).__name__}: {error}".split())
    field = "optimizer.args" if config.args else "optimizer.name"
    message = f"{row.path} failed with these settings when it was tried on a matrix of 16 x 8 ({text})."
    return [Finding("error", field, message, "Change the arguments, or take another optimizer.")]


def _goes_on_exactly(cls: type[Any], given: Mapping[str, Any], lr: float) -> bool:
    """Say whether three steps, its state through a checkpoint's form, and three more end where six steps end."""
    from trainer_core.train.optim.state import optimizer_state, restore_optimizer
    from trainer_core.train.optim.state_tree import pack, unpack

    def start(values: torch.Tensor) -> tuple[torch.nn.Parameter, Any]:
        weight = torch.nn.Parameter(values.clone())
        return weight, cls([{"params": [weight], "lr": lr, "peak_lr": lr}], **given)

    def train(weight: torch.nn.Parameter, optimizer: Any, steps: range) -> None:
        for step in steps:
            weight.grad = torch.sin(weight.detach() * 3 + step)
            # The loop seeds each step of such a class too, as some draw in it.
            torch.manual_seed(step)
            optimizer.step()

    whole, optimizer = start(torch.linspace(-1, 1, 128).reshape(16, 8))
    train(whole, optimizer, range(3))
    saved = unpack(*pack(optimizer_state(optimizer)))
    again, other = start(whole.detach())
    restore_optimizer(other, saved)
    train(whole, optimizer, range(3, 6))
    train(again, other, range(3, 6))
    return torch.equal(whole, again)
