"""Samplers by name: the scheduler of diffusers that renders, made from the base's own scheduler.

The table is data and imports nothing; what needs diffusers says so. docs/samples.md lists the names.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

from trainer_core.errors import ConfigError
from trainer_core.types import Finding

_KARRAS = {"use_karras_sigmas": True}
_SDE = {"algorithm_type": "sde-dpmsolver++"}
# Its last step would divide by zero with the usual end.
_FIRST_DPM = {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}
_MULTISTEP = "DPMSolverMultistepScheduler"


@dataclass(frozen=True)
class Sampler:
    """A scheduler class of diffusers and what is set in it beside the base's own settings."""

    scheduler: str
    settings: Mapping[str, object] = field(default_factory=lambda: MappingProxyType(dict[str, object]()))


DIFFUSION: Mapping[str, Sampler] = {
    "ddim": Sampler("DDIMScheduler"),
    "ddpm": Sampler("DDPMScheduler"),
    "pndm": Sampler("PNDMScheduler", {"skip_prk_steps": True}),
    "lms": Sampler("LMSDiscreteScheduler"),
    "euler": Sampler("EulerDiscreteScheduler"),
    "euler_karras": Sampler("EulerDiscreteScheduler", _KARRAS),
    "euler_a": Sampler("EulerAncestralDiscreteScheduler"),
    "heun": Sampler("HeunDiscreteScheduler"),
    "dpm_2": Sampler("KDPM2DiscreteScheduler"),
    "dpm_2_a": Sampler("KDPM2AncestralDiscreteScheduler"),
    "dpmsolver": Sampler(_MULTISTEP, _FIRST_DPM),
    "dpmpp_2m": Sampler(_MULTISTEP),
    "dpmpp_2m_karras": Sampler(_MULTISTEP, _KARRAS),
    "dpmpp_2m_sde": Sampler(_MULTISTEP, _SDE),
    "dpmpp_2m_sde_karras": Sampler(_MULTISTEP, _SDE | _KARRAS),
    "dpmpp_2s": Sampler("DPMSolverSinglestepScheduler"),
    "deis": Sampler("DEISMultistepScheduler"),
    "unipc": Sampler("UniPCMultistepScheduler"),
    "lcm": Sampler("LCMScheduler"),
}
"""For families that predict noise or velocity (SD1.5, SDXL)."""
FLOW: Mapping[str, Sampler] = {
    "euler": Sampler("FlowMatchEulerDiscreteScheduler"),
    "heun": Sampler("FlowMatchHeunDiscreteScheduler"),
    "lcm": Sampler("FlowMatchLCMScheduler"),
    "unipc": Sampler("UniPCMultistepScheduler"),
    "dpmpp_2m": Sampler(_MULTISTEP),
    "dpmpp_2m_sde": Sampler(_MULTISTEP, _SDE),
    "dpmpp_2s": Sampler("DPMSolverSinglestepScheduler"),
    "deis": Sampler("DEISMultistepScheduler"),
}
"""For flow-matching families. Not every pipeline takes every one: `check_sampler` tells."""
ALIASES: Mapping[str, str] = {
    **{f"k_{name}": name for name in ("lms", "euler", "euler_a", "heun", "dpm_2", "dpm_2_a")},
    "plms": "pndm",
    "euler_ancestral": "euler_a",
    "dpmsolverpp": "dpmpp_2m",
    "dpmsingle": "dpmpp_2s",
    "uni_pc": "unipc",
    "flow_match_euler": "euler",
    "flow_euler": "euler",
    "flow_match_heun": "heun",
    "flow_match_lcm": "lcm",
    "dpmpp_2s_a": "dpmpp_2s",
}
"""Other names, kohya's among them; spaces, capitals and `++` count as `_`, small letters and `pp`."""
_SCHEDULER = re.compile(r"[A-Z]\w*Scheduler")


def table(prediction: str) -> Mapping[str, Sampler]:
    """Return name -> sampler for `diffusion` or `flow` families."""
    return FLOW if prediction == "flow" else DIFFUSION


def find_sampler(name: str, prediction: str) -> Sampler | None:
    """Return the sampler of a name, or of a scheduler class of diffusers; None for a name that is neither."""
    if _SCHEDULER.fullmatch(name):
        return Sampler(name)
    plain = re.sub(r"[\s-]+", "_", name.strip().lower()).replace("++", "pp")
    return table(prediction).get(ALIASES.get(plain, plain))


def check_sampler(name: str, prediction: str, pipeline: str) -> str | None:
    """Say why a sampler cannot render with a pipeline class of diffusers, and what can; None if it does.

    Imports diffusers, but only for what the table knows.
    """
    sampler = find_sampler(name, prediction)
    problem = "is no sampler" if sampler is None else _problem(sampler, prediction, pipeline)
    if problem is None:
        return None
    fitting = [one for one, known in table(prediction).items() if _problem(known, prediction, pipeline) is None]
    return f"{name!r} {problem}. {pipeline} renders with {', '.join(fitting)}"


@contextmanager
def sampling_with(pipeline: Any, name: str, prediction: str) -> Generator[None]:
    """Render with a sampler as long as the block runs; an empty name is the base's own.

    Raises:
        ConfigError: the sampler does not fit the pipeline.
    """
    if not name:
        yield
        return
    if problem := check_sampler(name, prediction, type(pipeline).__name__):
        raise ConfigError([Finding("error", "sample.sampler", f"{problem}.", "Choose one of them, or leave it empty.")])
    sampler, own = find_sampler(name, prediction), pipeline.scheduler
    assert sampler is not None
    pipeline.scheduler = _scheduler(sampler, prediction, own)
    try:
        yield
    finally:
        pipeline.scheduler = own


def _scheduler(sampler: Sampler, prediction: str, own: Any) -> Any:
    import diffusers

    made: Any = getattr(diffusers, sampler.scheduler)
    settings = dict(sampler.settings)
    if prediction == "flow":
        shift = own.config.get("shift") or own.config.get("flow_shift") or 1.0
        known = inspect.signature(made.__init__).parameters
        flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": shift, "shift": shift}
        settings |= {setting: value for setting, value in flow.items() if setting in known}
    return made.from_config(own.config, **settings)


def _problem(sampler: Sampler, prediction: str, pipeline: str) -> str | None:
    import diffusers

    made: Any = getattr(diffusers, sampler.scheduler, None)
    if made is None:
        return "is no scheduler of diffusers"
    if backends := getattr(made, "_backends", None):
        return f"needs {' and '.join(one for one in backends if find_spec(one) is None)}, which is not installed"
    settings = inspect.signature(made.__init__).parameters
    if prediction == "diffusion":
        return None if "beta_schedule" in settings else "is for flow-matching models"
    if "use_flow_sigmas" not in settings and not sampler.scheduler.startswith("FlowMatch"):
        return "knows no flow matching"
    return _refused(getattr(diffusers, pipeline), made)


def _refused(pipeline: Any, scheduler: Any) -> str | None:
    """Say what a pipeline tells its scheduler that this one does not take.

    Most flow pipelines work out the noise levels themselves; some leave them to schedulers that know flow sigmas.
    """
    source = inspect.getsource(pipeline.__call__)
    takes, settings = inspect.signature(scheduler.set_timesteps).parameters, inspect.signature(scheduler.__init__)
    given = re.findall(r"\bsigmas = (?!None)(.+)", source)
    if given and not ("use_flow_sigmas" in source and "use_flow_sigmas" in settings.parameters):
        if "sigmas" not in takes:
            return "takes no noise levels from the pipeline"
        if not scheduler.__name__.startswith("FlowMatch") and not any("np." in one for one in given):
            return "takes noise levels as an array, and the pipeline gives a list"
    if re.search(r"\bmu=mu\b", source) and "mu" not in takes:
        return "takes no shift from the pipeline"
    return None
