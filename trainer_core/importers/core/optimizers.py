"""Optimizers of the tools by name: ours, and the weight decay that their libraries take where none is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from trainer_core.importers.core.key_table import Context, Conversion, changed, refused
from trainer_core.types import JSON


@dataclass(frozen=True)
class Kind:
    """An optimizer: our name, its own weight decay and epsilon there, and in how far ours differs."""

    ours: str
    weight_decay: float = 0.01
    eps: float | None = None
    betas: tuple[float, ...] | None = None
    args: Mapping[str, JSON] = field(default_factory=dict[str, JSON])
    note: str = ""


NO_DECAY = 0.0

ARGUMENTS: Mapping[str, str] = {
    "weight_decay": "optimizer.weight_decay",
    "betas": "optimizer.betas",
    "eps": "optimizer.eps",
}
RENAMED: Mapping[str, str] = {"decouple": "weight_decouple", "use_bias_correction": "bias_correction"}
"""Arguments of dadaptation and prodigyopt -> those of pytorch_optimizer."""


def plain(name: JSON) -> str:
    """Spell a name without what differs from tool to tool."""
    return str(name).lower().replace("_", "").replace("-", "")


def chosen(kinds: Mapping[str, Kind], name: JSON, given: Mapping[str, JSON]) -> Conversion:
    """Write an optimizer as our settings.

    Args:
        kinds: the tool's names, spelt plainly.
        name: what the config says.
        given: arguments that the config sets itself, which therefore are not written here.
    """
    kind = kinds.get(plain(name))
    if kind is None and "." in str(name):
        return changed({"optimizer.name": str(name)}, "Taken by its class; check that it is one of our libraries.")
    if kind is None:
        return refused("We do not know this optimizer. Choose one of docs/optimizers.md and set `optimizer.name`.")
    settings: dict[str, JSON] = {"optimizer.name": kind.ours}
    own = {"weight_decay": kind.weight_decay, "eps": kind.eps, "betas": list(kind.betas) if kind.betas else None}
    for argument, value in own.items():
        if argument not in given and value is not None:
            settings[ARGUMENTS[argument]] = value
    for argument, value in kind.args.items():
        if argument not in given:
            settings[f"optimizer.args.{argument}"] = value
    return changed(settings, kind.note) if kind.note else Conversion(settings)


def argument(value: JSON, name: str) -> Conversion:
    """Write one argument of an optimizer as our setting."""
    if name in ARGUMENTS:
        return Conversion({ARGUMENTS[name]: value})
    return Conversion({f"optimizer.args.{RENAMED.get(name, name)}": value})


def arguments(value: JSON, context: Context) -> Conversion:
    """Convert for rows such as `optimizer_args.*`."""
    return argument(value, context.last)


AUTOMAGIC = (
    "Automagic moves a rate of its own for each weight; AdamW at 1e-4 is a careful start. Try `lora-assets find-lr`."
)
AUTOMAGIC_LR = 1e-4

KOHYA: Mapping[str, Kind] = {
    "": Kind("adamw"),
    "adamw": Kind("adamw"),
    "adamw8bit": Kind("adamw8bit"),
    "pagedadamw": Kind("pagedadamw"),
    "pagedadamw8bit": Kind("pagedadamw8bit"),
    "pagedadamw32bit": Kind("pagedadamw32bit"),
    "lion": Kind("lion", NO_DECAY, betas=(0.9, 0.99)),
    "lion8bit": Kind("lion8bit", NO_DECAY, betas=(0.9, 0.99)),
    "pagedlion8bit": Kind("pagedlion8bit", NO_DECAY, betas=(0.9, 0.99)),
    "sgdnesterov": Kind("sgdnesterov", NO_DECAY),
    "sgdnesterov8bit": Kind("sgdnesterov8bit", NO_DECAY),
    "adafactor": Kind("adafactor", NO_DECAY, args={"relative_step": True, "scale_parameter": True}),
    "prodigy": Kind("prodigy", NO_DECAY),
    "dadaptation": Kind("dadaptadam", NO_DECAY),
    "dadaptadampreprint": Kind("dadaptadam", NO_DECAY),
    "dadaptadam": Kind("dadaptadam", NO_DECAY),
    "dadaptadagrad": Kind("dadaptadagrad", NO_DECAY),
    "dadaptadan": Kind("dadaptadan", NO_DECAY),
    "dadaptadanip": Kind("dadaptadan", NO_DECAY),
    "dadaptlion": Kind("dadaptlion", NO_DECAY),
    "dadaptsgd": Kind("dadaptsgd", NO_DECAY),
    "adamwschedulefree": Kind("adamwschedulefree", NO_DECAY),
    "radamschedulefree": Kind("radamschedulefree", NO_DECAY),
    "sgdschedulefree": Kind("sgdschedulefree", NO_DECAY),
    "ademamix8bit": Kind("bitsandbytes.optim.AdEMAMix8bit"),
    "pagedademamix8bit": Kind("bitsandbytes.optim.PagedAdEMAMix8bit"),
    "came": Kind("pytorch_optimizer.CAME", NO_DECAY),
}

AI_TOOLKIT: Mapping[str, Kind] = {
    "adam": Kind("adam", NO_DECAY, 1e-6),
    "adamw": Kind("adamw", eps=1e-6),
    "adam8bit": Kind("adam8bit", NO_DECAY, 1e-6),
    "adamw8bit": Kind("adamw8bit", eps=1e-6),
    "adam8": Kind("adam8bit", NO_DECAY, 1e-6, note="It has its own 8-bit Adam; ours is from bitsandbytes."),
    "adamw8": Kind("adamw8bit", NO_DECAY, 1e-6, note="It has its own 8-bit AdamW; ours is from bitsandbytes."),
    "ademamix8bit": Kind("bitsandbytes.optim.AdEMAMix8bit", eps=1e-6),
    "lion": Kind("lion", NO_DECAY, betas=(0.9, 0.99)),
    "lion8bit": Kind("lion8bit", NO_DECAY, betas=(0.9, 0.99)),
    "prodigy": Kind("prodigy", NO_DECAY, 1e-6),
    "prodigy8bit": Kind("prodigy", NO_DECAY, 1e-6, note="It has its own 8-bit Prodigy; ours has states of 32 bits."),
    "dadaptation": Kind("dadaptadam", NO_DECAY, 1e-6),
    "dadaptationadam": Kind(
        "dadaptlion", NO_DECAY, note="The other tool uses DAdaptLion under this name, and so do we."
    ),
    "dadaptationlion": Kind("dadaptlion", NO_DECAY),
    "adagrad": Kind("torch.optim.Adagrad", NO_DECAY),
    "adafactor": Kind("adafactor", NO_DECAY),
    "automagic": Kind("adamw", NO_DECAY, note=AUTOMAGIC),
    "automagic2": Kind("adamw", NO_DECAY, note=AUTOMAGIC),
    "automagic3": Kind("adamw", NO_DECAY, note=AUTOMAGIC),
}

_ADV = "Its own variant with more options; ours is the plain one."

ONETRAINER: Mapping[str, Kind] = {
    "adam": Kind("adam", NO_DECAY),
    "adam8bit": Kind("adam8bit", NO_DECAY),
    "adamw": Kind("adamw"),
    "adamw8bit": Kind("adamw8bit"),
    "adamwadv": Kind("adamw", NO_DECAY, betas=(0.9, 0.99), note=_ADV),
    "ademamix": Kind("pytorch_optimizer.AdEMAMix"),
    "ademamix8bit": Kind("bitsandbytes.optim.AdEMAMix8bit"),
    "adagrad": Kind("torch.optim.Adagrad", NO_DECAY),
    "adopt": Kind("pytorch_optimizer.ADOPT", NO_DECAY),
    "adoptadv": Kind("pytorch_optimizer.ADOPT", NO_DECAY, note=_ADV),
    "lamb": Kind("pytorch_optimizer.Lamb", NO_DECAY),
    "lars": Kind("pytorch_optimizer.LARS", NO_DECAY),
    "lion": Kind("lion", NO_DECAY, betas=(0.9, 0.99)),
    "lion8bit": Kind("lion8bit", NO_DECAY, betas=(0.9, 0.999)),
    "lionadv": Kind("lion", NO_DECAY, betas=(0.9, 0.99), note=_ADV),
    "rmsprop": Kind("torch.optim.RMSprop", NO_DECAY),
    "sgd": Kind("torch.optim.SGD", NO_DECAY),
    "scheduleadamw": Kind("adamwschedulefree"),
    "schedulefreeadamw": Kind("adamwschedulefree"),
    "schedulefreesgd": Kind("sgdschedulefree"),
    "dadaptadagrad": Kind("dadaptadagrad", NO_DECAY),
    "dadaptadam": Kind("dadaptadam", NO_DECAY),
    "dadaptadan": Kind("dadaptadan", 0.02),
    "dadaptlion": Kind("dadaptlion", NO_DECAY),
    "dadaptsgd": Kind("dadaptsgd", NO_DECAY),
    "prodigy": Kind("prodigy", NO_DECAY),
    "prodigyadv": Kind("prodigy", NO_DECAY, betas=(0.9, 0.99), note=_ADV),
    "prodigyplusschedulefree": Kind("prodigy", NO_DECAY, betas=(0.9, 0.99), note="Ours is not schedule-free."),
    "adafactor": Kind("adafactor", NO_DECAY),
    "came": Kind("pytorch_optimizer.CAME"),
    "muon": Kind("pytorch_optimizer.Muon", NO_DECAY),
    "adabelief": Kind("pytorch_optimizer.AdaBelief", NO_DECAY),
    "tiger": Kind("pytorch_optimizer.Tiger"),
    "aida": Kind("pytorch_optimizer.Aida", NO_DECAY),
    "yogi": Kind("pytorch_optimizer.Yogi", NO_DECAY),
}

_BF16 = "Its weights and states are bf16 with Kahan summation or stochastic rounding; ours are fp32."

SIMPLETUNER: Mapping[str, Kind] = {
    "adamwbf16": Kind("adamw", eps=1e-6, note=_BF16),
    "aoadamw8bit": Kind("adamw8bit", note="It has the 8-bit optimizer of torchao; ours is from bitsandbytes."),
    "bnbadamw": Kind("adamw"),
    "bnbadamw8bit": Kind("adamw8bit"),
    "bnbadamwpaged": Kind("pagedadamw"),
    "bnbadamw8bitpaged": Kind("pagedadamw8bit"),
    "bnblion": Kind("lion"),
    "bnblion8bit": Kind("lion8bit"),
    "bnblion8bitpaged": Kind("pagedlion8bit"),
    "bnbademamix8bit": Kind("bitsandbytes.optim.AdEMAMix8bit"),
    "adamwschedulefree": Kind("adamwschedulefree"),
    "optimiadamw": Kind("adamw", NO_DECAY, 1e-6, (0.9, 0.99), note=_BF16),
    "optimistableadamw": Kind("pytorch_optimizer.StableAdamW", 0.01, 1e-6, (0.9, 0.99), note=_BF16),
    "optimilion": Kind("lion", NO_DECAY, betas=(0.9, 0.99), note=_BF16),
    "optimiradam": Kind("torch.optim.RAdam", NO_DECAY, 1e-6, (0.9, 0.99), note=_BF16),
    "optimiranger": Kind("pytorch_optimizer.Ranger", NO_DECAY, 1e-6, (0.9, 0.99), note=_BF16),
    "optimiadan": Kind("pytorch_optimizer.Adan", 0.02, 1e-6, (0.98, 0.92, 0.999), note=_BF16),
    "optimiadam": Kind("adam", NO_DECAY, 1e-6, (0.9, 0.99), note=_BF16),
    "optimisgd": Kind("torch.optim.SGD", note=_BF16),
    "soap": Kind("pytorch_optimizer.SOAP"),
    "muon": Kind("pytorch_optimizer.Muon"),
    "prodigy": Kind("prodigy"),
    "dadaptation": Kind("dadaptadam"),
}

DIFFUSION_PIPE: Mapping[str, Kind] = {
    "adamw": Kind("adamw"),
    "adamw8bit": Kind("adamw8bit"),
    "adamwoptimi": Kind("adamw", NO_DECAY, 1e-6, (0.9, 0.99), note=_BF16),
    "stableadamw": Kind("pytorch_optimizer.StableAdamW", NO_DECAY, note=_BF16),
    "adamw8bitkahan": Kind("adamw8bit", note=_BF16),
    "sgd": Kind("torch.optim.SGD", NO_DECAY),
    "automagic": Kind("adamw", NO_DECAY, note=AUTOMAGIC),
    "prodigy": Kind("prodigy", NO_DECAY),
    "lion": Kind("lion", NO_DECAY),
    "adafactor": Kind("adafactor", NO_DECAY),
}
