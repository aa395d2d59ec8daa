"""Names of learning-rate schedules in the tools -> ours."""

from __future__ import annotations

from collections.abc import Mapping

from trainer_core.importers.core.key_table import Conversion, changed, refused
from trainer_core.types import JSON

_OWN = "Our optimizers move the rate by `schedule` alone."


def _named(name: str, note: str = "") -> Conversion:
    settings: dict[str, JSON] = {"schedule.name": name}
    return changed(settings, note) if note else Conversion(settings)


KOHYA: Mapping[str, Conversion] = {
    "": _named("constant"),
    "constant": _named("constant"),
    "constant_with_warmup": _named("constant"),
    "linear": _named("linear"),
    "cosine": _named("cosine"),
    "cosine_with_restarts": _named("cosine_with_restarts"),
    "cosine_with_min_lr": _named("cosine"),
    "polynomial": _named("polynomial"),
    "warmup_stable_decay": _named("warmup_stable_decay"),
    "adafactor": _named("constant", "Adafactor's own schedule. " + _OWN),
    "inverse_sqrt": _named("constant", "We have no 1/sqrt schedule; `polynomial` or `rex` come near."),
    "piecewise_constant": refused("We have no schedule with steps. Set `schedule.name` to `linear` or `cosine`."),
}

AI_TOOLKIT: Mapping[str, Conversion] = {
    **KOHYA,
    "step": refused("We have no schedule with steps. Set `schedule.name` to `linear` or `cosine`."),
}

ONETRAINER: Mapping[str, Conversion] = {
    "constant": _named("constant"),
    "linear": _named("linear"),
    "cosine": _named("cosine"),
    "cosine_with_restarts": _named("cosine_with_restarts", "Its restarts are soft (the rate rises again slowly)."),
    "cosine_with_hard_restarts": _named("cosine_with_restarts"),
    "rex": _named("rex"),
    "adafactor": _named("constant", "Adafactor's own schedule. " + _OWN),
    "custom": refused("It is a class of your own code. Choose one of `schedule.name`."),
}

SIMPLETUNER: Mapping[str, Conversion] = {
    **KOHYA,
    "sine": _named("cosine_with_restarts", "Its sine goes up and down; ours restarts at the peak."),
}

DIFFUSION_PIPE: Mapping[str, Conversion] = {
    "constant": _named("constant"),
    "linear": _named("linear"),
    "cosine": _named("cosine", "It falls to 1e-6, ours to `schedule.min_lr_ratio` (0) of the peak."),
}


def named(table: Mapping[str, Conversion], name: JSON) -> Conversion:
    """Translate a schedule's name."""
    found = table.get(str(name).lower().split(":")[0])
    return found or refused("We do not know this schedule. Choose one of `schedule.name`.")
