"""What `check_sampler` says of each flow pipeline is what diffusers does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from tests.contract.models import MODELS
from trainer_core.config.groups import ModelConfig
from trainer_core.families import get_family, with_spec
from trainer_core.families.shared import loading
from trainer_core.sampling.render import RenderSettings, prompt_request
from trainer_core.sampling.samplers import DIFFUSION, FLOW, check_sampler, find_sampler, sampling_with
from trainer_core.stages.project.base_model import find_base
from trainer_core.store import Store

SHORT = ("flux1", "sd15")
"""Models of the two predictions; what the others take is shown before each release."""
# Kandinsky 5 renders a megapixel at the least.
OTHERS = sorted(MODELS.keys() - {"kandinsky5", *SHORT})
NAMES = (*SHORT, *(pytest.param(name, marks=pytest.mark.campaign) for name in OTHERS))


# diffusers gives numpy a tensor for some second-order samplers.
@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")
@pytest.mark.slow
@pytest.mark.usefixtures("small_control_pictures")
@pytest.mark.setting("sample.sampler")
@pytest.mark.parametrize("name", NAMES)
def test_a_pipeline_renders_with_exactly_the_samplers_that_are_said_to_fit(
    name: str, tmp_path: Path, tiny_bases: dict[str, Path]
) -> None:
    import torch

    model, store = MODELS[name], Store.open(tmp_path / "store")
    source = find_base(ModelConfig(family=model.family, path=tiny_bases[name]), store)
    family = with_spec(get_family(model.family), source.spec)
    spec = family.spec
    pipeline = loading.load_pipeline(source, torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    shown = ((Image.new("RGB", (64, 64)),),) if spec.control and spec.control.required else ()
    settings = RenderSettings(("a cat",), "", 3, 2.0, 0, 64, 64, shown, spec.rendering.guidance_argument)
    rendered: dict[str, bytes] = {}
    for sampler in FLOW if spec.prediction == "flow" else DIFFUSION:
        fits = check_sampler(sampler, spec.prediction, spec.pipeline) is None
        if not fits and (found := find_sampler(sampler, spec.prediction)) and found.scheduler == "LMSDiscreteScheduler":
            continue  # needs scipy
        arguments = dict(prompt_request(pipeline, family.pipeline_inputs, settings, 0, (0,)).arguments)
        arguments["generator"] = torch.Generator().manual_seed(0)
        if fits:
            with sampling_with(pipeline, sampler, spec.prediction):
                rendered[sampler] = pipeline(**arguments, return_dict=False)[0][0].tobytes()
        else:
            own = pipeline.scheduler
            pipeline.scheduler = forced(sampler, spec.prediction, own)
            with pytest.raises((ValueError, TypeError)):
                pipeline(**arguments, return_dict=False)
            pipeline.scheduler = own
    assert {"euler", "lcm"} <= rendered.keys()
    assert len(set(rendered.values())) > 1
    store.close()
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def forced(sampler: str, prediction: str, own: object) -> object:
    """The scheduler that would be taken if nobody asked whether it fits."""
    from trainer_core.sampling import samplers

    found = find_sampler(sampler, prediction)
    assert found is not None
    return samplers._scheduler(found, prediction, own)  # pyright: ignore[reportPrivateUsage]
