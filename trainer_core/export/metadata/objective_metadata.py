"""Settings of noise and loss in the words of kohya's metadata: those that differ from their defaults."""

from __future__ import annotations

from collections.abc import Mapping

from trainer_core.config.groups import LossConfig, NoiseConfig

_NOISE: Mapping[str, str] = {
    "offset": "ss_noise_offset",
    "adaptive_scale": "ss_adaptive_noise_scale",
    "multires_iterations": "ss_multires_noise_iterations",
    "multires_discount": "ss_multires_noise_discount",
    "ip_gamma": "ss_ip_noise_gamma",
    "zero_terminal_snr": "ss_zero_terminal_snr",
    "guidance": "ss_guidance_scale",
}
_LOSS: Mapping[str, str] = {
    "type": "ss_loss_type",
    "huber_c": "ss_huber_c",
    "huber_schedule": "ss_huber_schedule",
    "min_snr_gamma": "ss_min_snr_gamma",
    "debiased": "ss_debiased_estimation",
    "prior_weight": "ss_prior_loss_weight",
}


def objective_metadata(noise: NoiseConfig, loss: LossConfig) -> dict[str, str]:
    """Return kohya's names and values (as its strings) of the settings that differ from their defaults."""
    values: dict[str, str] = {}
    for group, names in ((noise, _NOISE), (loss, _LOSS)):
        usual = type(group)()
        for field, name in names.items():
            if (value := getattr(group, field)) != getattr(usual, field):
                values[name] = str(value)
    if noise.prediction != "auto":
        values["ss_v_parameterization"] = str(noise.prediction == "v_prediction")
    if isinstance(noise.shift, float) and noise.shift:
        values["ss_discrete_flow_shift"] = str(noise.shift)
    return values
