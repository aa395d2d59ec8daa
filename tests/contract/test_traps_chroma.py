"""Mistakes that trainers of Chroma are known to make, and those of diffusers that the family works round."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tests.contract.support import CAPTIONS, HEIGHT, WIDTH, Tiny, conditions, given, losses, pixels, rows, spy, stack
from tests.contract.test_family_numbers import U
from tests.contract.test_family_traps import call_of
from trainer_core.errors import ModelError
from trainer_core.families import get_family
from trainer_core.families.model_source import ModelSource
from trainer_core.families.shared import loading

Open = Callable[[str], Tiny]


def trained(tiny: Tiny) -> Tiny:
    """Return the model with a denoiser of its own that learns."""
    model = loading.load_denoiser(tiny.source, torch.float32).requires_grad_(True).train()
    return Tiny(**{**tiny.__dict__, "denoiser": model})


def loss_of(tiny: Tiny, captions: slice = slice(2)) -> Tensor:
    """Return the mean loss of some of two samples."""
    return losses(tiny, tiny.family.encode_latents(tiny.vae, pixels()), rows(tiny), U, captions).mean()


def gradients(tiny: Tiny, *sums: Tensor) -> dict[str, Tensor]:
    """Return what the losses leave on the weights, run backwards in the order given."""
    tiny.denoiser.zero_grad()
    for loss in sums:
        loss.backward()
    return {name: p.grad.clone() for name, p in tiny.denoiser.named_parameters() if p.grad is not None}


def without_mask(block: Any, *args: Any) -> Any:
    """Checkpoint as diffusers does."""
    return checkpoint(block, *args, use_reentrant=False)


def test_gradient_checkpointing_of_diffusers_loses_the_mask_and_ours_does_not(open_family: Open) -> None:
    tiny = trained(open_family("chroma"))
    wanted = loss_of(tiny).item()
    tiny.denoiser.enable_gradient_checkpointing()
    assert loss_of(tiny).item() == wanted
    tiny.denoiser._set_gradient_checkpointing(True, without_mask)
    assert abs(loss_of(tiny).item() - wanted) > 1e-4, "diffusers passes the mask now: load_denoiser needs no way round"


def test_a_checkpointed_block_recomputes_with_the_mask_of_its_own_batch(open_family: Open) -> None:
    """Two batches of other lengths, forwards first: nothing of the second leaks into the first one's recomputation."""
    tiny = trained(open_family("chroma"))
    plain = gradients(tiny, loss_of(tiny), loss_of(tiny, slice(0, 1)))
    tiny.denoiser.enable_gradient_checkpointing()
    kept = gradients(tiny, loss_of(tiny), loss_of(tiny, slice(0, 1)))
    assert all(torch.equal(plain[name], kept[name]) for name in plain)


def test_checkpointing_is_turned_off_again(open_family: Open) -> None:
    tiny = trained(open_family("chroma"))
    tiny.denoiser.enable_gradient_checkpointing()
    tiny.denoiser.disable_gradient_checkpointing()
    assert not tiny.denoiser.is_gradient_checkpointing
    assert torch.isfinite(loss_of(tiny))


def test_the_mask_is_bool_and_numbers_would_be_added_to_the_scores(open_family: Open) -> None:
    tiny = open_family("chroma")
    latents, times = torch.randn(2, 16, 8, 12, generator=torch.Generator().manual_seed(1)), torch.tensor([0.5, 0.5])
    call = call_of(tiny, latents, times)
    assert call["attention_mask"].dtype == torch.bool
    with torch.no_grad():
        right, wrong = (
            tiny.theirs(**(call | {"attention_mask": call["attention_mask"].to(kind)})).sample
            for kind in (torch.bool, torch.float32)
        )
    assert (right - wrong).abs().max() > 0.01


def test_the_pipeline_samples_with_a_bool_mask_on_both_sides_of_its_guidance(open_family: Open) -> None:
    tiny = open_family("chroma")
    pipeline = loading.load_pipeline(tiny.source, torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    inputs = tiny.family.pipeline_inputs(pipeline, CAPTIONS[0], "blurred", ())
    size = {"height": HEIGHT, "width": WIDTH, "num_inference_steps": 1, "output_type": "latent"}
    calls = spy(pipeline.transformer, lambda: pipeline(**inputs, **size, guidance_scale=3.0))
    assert [call["attention_mask"].dtype for call, _ in calls] == [torch.bool, torch.bool]


def test_captions_of_one_length_need_no_mask(open_family: Open) -> None:
    assert "attention_mask" not in call_of(open_family("chroma"), torch.zeros(1, 16, 8, 12), torch.tensor([0.5]))


def test_the_first_pad_counts_and_no_other(open_family: Open) -> None:
    tiny = open_family("chroma")
    tokens = tiny.encoders["tokenizer"](list(CAPTIONS)).input_ids
    assert [len(row.embeds) for row in rows(tiny)] == [len(ids) + 1 for ids in tokens]
    assert len(rows(tiny, [""])[0].embeds) == 2
    assert len(rows(tiny, ["x" * 600])[0].embeds) == 512


def test_t5_is_masked_too(open_family: Open) -> None:
    tiny = open_family("chroma")
    ids = tiny.encoders["tokenizer"](CAPTIONS[0], return_tensors="pt").input_ids
    with torch.no_grad():
        alone = tiny.encoders["text_encoder"](ids)[0][0]
        padded = torch.nn.functional.pad(ids, (0, 512 - ids.shape[1]))
        unmasked = tiny.encoders["text_encoder"](padded)[0][0, : len(alone)]
    ours = rows(tiny)[0].embeds[: len(alone)]
    torch.testing.assert_close(ours, alone, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(ours, unmasked, atol=1e-3)


def test_there_is_no_guidance_and_no_pooled_text(open_family: Open) -> None:
    call = call_of(open_family("chroma"), torch.zeros(2, 16, 8, 12), torch.tensor([0.25, 0.5]), guidance=3.5)
    assert not {"guidance", "pooled_projections"} & call.keys()
    assert call["timestep"].tolist() == [0.25, 0.5]
    assert conditions(open_family("chroma")).pooled is None


def test_guidance_of_the_project_changes_nothing(open_family: Open) -> None:
    tiny = open_family("chroma")
    text = stack(rows(tiny))
    with torch.no_grad():
        one, other = (
            tiny.family.predict(tiny.denoiser, torch.zeros(2, 16, 8, 12), U, given(tiny, text, guidance=value))
            for value in (1.0, 4.0)
        )
    assert torch.equal(one, other)


@pytest.mark.parametrize(("family", "other"), [("chroma", "flux1"), ("flux1", "chroma")])
def test_a_single_file_of_chroma_is_not_taken_for_flux(family: str, other: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    names = [
        *get_family("flux1").spec.single_file.has,
        *(get_family("chroma").spec.single_file.has if family == "chroma" else ()),
    ]
    save_file({f"model.diffusion_model.{name}": torch.zeros(1) for name in names}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=f"It looks like `{family}`"):
        ModelSource.open(tmp_path / "model.safetensors", tmp_path, get_family(other).spec)
