from __future__ import annotations

import pytest
import torch

from trainer_core.hardware import placement
from trainer_core.hardware.placement import move_to_device, torch_work, use_attention
from trainer_core.hardware.profiles import PROFILES, HardwareProfile

CPU = next(profile for profile in PROFILES if profile.name == "cpu")


class _Calls:
    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def mallopt(self, *arguments: int) -> None:
        self.calls.append(("mallopt", *arguments))

    def malloc_trim(self, pad: int) -> None:
        self.calls.append(("malloc_trim", pad))


@pytest.mark.setting("hardware.threads")
def test_threads_are_set_for_the_work_and_given_back_even_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), torch_work(CPU, before + 1):
        assert torch.get_num_threads() == before + 1
        _ = 1 / 0
    assert torch.get_num_threads() == before


def test_on_a_cpu_freed_memory_is_kept_for_the_work_and_returned_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    libc = _Calls()
    monkeypatch.setattr(placement, "_glibc", lambda: libc)
    with torch_work(CPU, 0):
        assert [call[0] for call in libc.calls] == ["mallopt", "mallopt"]
    assert libc.calls[-1] == ("malloc_trim", 0)


def test_convolutions_are_placed_channels_last_and_other_modules_as_they_are() -> None:
    convolution = move_to_device(torch.nn.Conv2d(3, 4, 3), CPU)
    assert next(convolution.parameters()).is_contiguous(memory_format=torch.channels_last)
    linear = torch.nn.Linear(3, 4)
    assert move_to_device(linear, CPU) is linear


def test_a_module_with_convolutions_over_videos_keeps_its_memory_format() -> None:
    module = move_to_device(torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3), torch.nn.Conv3d(4, 4, 3)), CPU)
    assert all(parameter.is_contiguous() for parameter in module.parameters())


@pytest.mark.parametrize("profile", [CPU], ids=["cpu"])
def test_plain_attention_gives_the_same_as_sdpa(tiny_bases: dict[str, object], profile: HardwareProfile) -> None:
    from pathlib import Path

    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(Path(str(tiny_bases["sd15"])) / "unet").eval()
    arguments = (torch.randn(1, 4, 8, 8), torch.tensor([10]), torch.randn(1, 77, 32))
    with torch.inference_mode():
        before = unet(*arguments).sample
        use_attention(unet, profile.attention)
        names = {type(processor).__name__ for processor in unet.attn_processors.values()}
        after = unet(*arguments).sample
    assert names == {"AttnProcessor"}
    assert torch.allclose(before, after, atol=1e-5)
