"""Which scheduler a sampler's name means, and which pipelines take it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from trainer_core.errors import ConfigError
from trainer_core.sampling.samplers import ALIASES, DIFFUSION, FLOW, check_sampler, find_sampler, sampling_with

KOHYA = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "pndm": "PNDMScheduler",
    "lms": "LMSDiscreteScheduler",
    "k_lms": "LMSDiscreteScheduler",
    "euler": "EulerDiscreteScheduler",
    "k_euler": "EulerDiscreteScheduler",
    "euler_a": "EulerAncestralDiscreteScheduler",
    "k_euler_a": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "dpm_2": "KDPM2DiscreteScheduler",
    "k_dpm_2_a": "KDPM2AncestralDiscreteScheduler",
    "dpmsolver": "DPMSolverMultistepScheduler",
    "dpmsolver++": "DPMSolverMultistepScheduler",
    "dpmsingle": "DPMSolverSinglestepScheduler",
}


@pytest.mark.setting("sample.sampler")
@pytest.mark.parametrize(("name", "scheduler"), KOHYA.items())
def test_kohyas_names_are_known(name: str, scheduler: str) -> None:
    found = find_sampler(name, "diffusion")
    assert found is not None and found.scheduler == scheduler


def test_names_of_user_interfaces_are_known() -> None:
    assert find_sampler("DPM++ 2M Karras", "diffusion") is DIFFUSION["dpmpp_2m_karras"]
    assert find_sampler("Euler a", "diffusion") is DIFFUSION["euler_a"]
    assert find_sampler("flow_match_euler", "flow") is FLOW["euler"]
    assert find_sampler("euler_b", "diffusion") is None
    assert {target for target in ALIASES.values()} <= DIFFUSION.keys() | FLOW.keys()


def test_a_class_of_diffusers_is_taken_where_it_is_compatible() -> None:
    assert check_sampler("SASolverScheduler", "diffusion", "StableDiffusionPipeline") is None
    wrong = check_sampler("FlowMatchEulerDiscreteScheduler", "diffusion", "StableDiffusionPipeline")
    assert wrong is not None and "is for flow-matching models" in wrong and "euler_a" in wrong
    assert "knows no flow matching" in (check_sampler("DDIMScheduler", "flow", "FluxPipeline") or "")
    assert "is no scheduler of diffusers" in (check_sampler("MagicScheduler", "flow", "FluxPipeline") or "")


def test_a_pipeline_that_works_out_noise_levels_itself_refuses_samplers_that_take_none() -> None:
    assert check_sampler("heun", "flow", "StableDiffusion3Pipeline") is None
    assert "takes no noise levels" in (check_sampler("heun", "flow", "FluxPipeline") or "")
    assert check_sampler("dpmpp_2m", "flow", "FluxPipeline") is None
    told = check_sampler("dpmpp_2m", "flow", "ChromaPipeline") or ""
    assert told.endswith("ChromaPipeline renders with euler, lcm, unipc")


def test_flow_samplers_keep_the_bases_shift() -> None:
    import diffusers

    own = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipeline = type("StableDiffusion3Pipeline", (SimpleNamespace,), {})(scheduler=own)
    with sampling_with(pipeline, "dpmpp_2m", "flow"):
        config = pipeline.scheduler.config
        assert (config.use_flow_sigmas, config.prediction_type, config.flow_shift) == (True, "flow_prediction", 3.0)
    assert pipeline.scheduler is own
    pipeline.scheduler = diffusers.DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=4.0
    )
    with sampling_with(pipeline, "euler", "flow"):
        assert pipeline.scheduler.config.shift == 4.0


def test_the_bases_own_sampler_comes_back_after_an_error() -> None:
    import diffusers

    own = diffusers.DDIMScheduler()
    pipeline = type("StableDiffusionPipeline", (SimpleNamespace,), {})(scheduler=own)
    with pytest.raises(KeyError), sampling_with(pipeline, "euler", "diffusion"):
        raise KeyError
    assert pipeline.scheduler is own
    with pytest.raises(ConfigError, match="renders with"), sampling_with(pipeline, "fast", "diffusion"):
        pass
