"""LoRAs on text encoders: trained, resumed, written, and the same in plain diffusers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.contract.models import MODELS
from tests.contract.whole_run import TRAINED, stop_training
from tests.projects import NewProject, TinyProject

ENCODERS = {
    "sd15": ("text_encoder",),
    "sdxl": ("text_encoder", "text_encoder_2"),
    "sd3": ("text_encoder", "text_encoder_2"),
    "flux1": ("text_encoder",),
}
UNREAD = {"sdxl": ("text_encoder.encoder.layers.2.",)}
"""Layers whose states the family does not read."""
CAPTION = "a small picture of number 3"
STEPS = 3


def settings(family: str, *more: str) -> tuple[str, ...]:
    return (
        f"adapter.text_encoders={json.dumps(ENCODERS[family])}",
        f"train.steps={STEPS}",
        "export.dtype=fp32",
        'export.formats=["diffusers","kohya","comfyui"]',
        *more,
    )


def adapter(project: TinyProject, steps: int = STEPS) -> dict[str, Tensor]:
    """Return what was trained, in float32."""
    (state,) = project.store.glob(f"runs/*/checkpoints/step-{steps:08d}/adapter.safetensors")
    return load_file(state)


def largest(state: Mapping[str, Tensor], start: str) -> dict[str, float]:
    """Return module -> largest number of its up matrix, which begins at zero."""
    return {
        name: float(tensor.abs().max())
        for name, tensor in state.items()
        if name.startswith(start) and name.endswith("lora_B.weight")
    }


@pytest.mark.setting("adapter.text_encoders")
@pytest.mark.parametrize("family", sorted(ENCODERS))
def test_text_encoders_are_trained_resumed_and_loaded_by_plain_diffusers(family: str, new_project: NewProject) -> None:
    project, asked = new_project(family), settings(family, "adapter.dropout=0.3")
    stop_training(project, asked)
    results = project.run(*asked, until="lora_checkpoint")
    assert results["lora_checkpoint"].items_reused == 2
    state = adapter(project)
    for name in ENCODERS[family]:
        moved = largest(state, f"{name}.")
        assert len(moved) >= 6
        assert min(moved.values()) > 0, "every module that carries a LoRA learnt something"
        assert not any(one.startswith(UNREAD.get(family, ("-",))) for one in moved)
    proofs = json.loads((project.lora.parent / "proof.json").read_text())["files"]
    assert all(proof["ok"] and proof["modules"] == len(state) // 2 for proof in proofs)
    assert proofs[0]["reader"] == "diffusers"
    assert proofs[2]["comfyui_coverage"] == 1
    _check_in_plain_diffusers(family, project, state)
    for part in TRAINED:
        shutil.rmtree(project.store / part)
    in_one_go = project.run(*asked, until="lora_checkpoint")["lora_checkpoint"]
    assert in_one_go.items_computed == STEPS
    assert in_one_go.data_version == results["lora_checkpoint"].data_version
    again = adapter(project)
    assert all(torch.equal(state[name], again[name]) for name in state)


def _check_in_plain_diffusers(family: str, project: TinyProject, state: Mapping[str, Tensor]) -> None:
    """The published file makes each encoder say what its weights plus alpha / rank * B @ A say."""
    pipeline, merged = (MODELS[family].pipeline(project.base) for _ in range(2))
    before = {name: says(pipeline, name) for name in ENCODERS[family]}
    pipeline.load_lora_weights(str(project.lora.parent), weight_name=project.lora.name)
    for name in ENCODERS[family]:
        encoder = getattr(merged, name)
        for module, linear in encoder.named_modules():
            if (key := f"{name}.{module}.lora_A.weight") in state:
                linear.weight.data += 2 / 4 * state[f"{name}.{module}.lora_B.weight"] @ state[key]
        found, wanted = says(pipeline, name), says(merged, name)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
        assert (found - before[name]).abs().max() > 1e-3


@torch.no_grad()
def says(pipeline: Any, name: str) -> Tensor:
    """Return the last but one state of an encoder for a caption."""
    tokenizer = getattr(pipeline, name.replace("text_encoder", "tokenizer"))
    ids = tokenizer(CAPTION, padding="max_length", return_tensors="pt").input_ids
    return getattr(pipeline, name)(ids, output_hidden_states=True).hidden_states[-2]


@pytest.mark.setting("adapter.text_encoders")
def test_text_encoders_carry_a_plain_lora_beside_a_locon(new_project: NewProject) -> None:
    project = new_project("sd15")
    asked = settings("sd15", "adapter.type=locon", "adapter.conv_rank=2", 'export.formats=["diffusers","kohya"]')
    stop_training(project, asked)
    published = project.run(*asked)["lora_checkpoint"].published
    assert {one["ok"] for one in published.metadata["proof"]} == {True}
    shapes = {key: tensor.shape for key, tensor in load_file(published.file("lora.kohya.safetensors")).items()}
    assert any(key.startswith("lora_te_text_model_") for key in shapes)
    assert any(shape[2:] == (3, 3) for shape in shapes.values())
    assert min(largest(adapter(project), "text_encoder.").values()) > 0


@pytest.mark.setting("optimizer.text_encoder_lr")
def test_each_text_encoder_has_a_rate_of_its_own(new_project: NewProject) -> None:
    project = new_project("sdxl")
    project.run(*settings("sdxl", "optimizer.text_encoder_lr=[1e-2, 1e-9]"), until="lora_checkpoint")
    state = adapter(project)
    assert min(largest(state, "text_encoder.").values()) > 1e-3
    assert 0 < max(largest(state, "text_encoder_2.").values()) < 1e-8
    assert min(largest({k: v for k, v in state.items() if not k.startswith("text")}, "").values()) > 1e-3


@pytest.mark.setting("optimizer.text_encoder_lr", "adapter.text_encoders")
def test_what_a_text_encoder_learnt_counts_in_held_out_losses_samples_and_metrics(new_project: NewProject) -> None:
    project = new_project("sd15")
    # all that is learnt is in the text encoder
    asked = settings("sd15", "optimizer.lr=1e-9", "optimizer.text_encoder_lr=3e-2", "train.evaluate_every=1")
    results = project.run(*asked, "sample.every=2")
    trained, figures = results["lora_checkpoint"].published.metadata, results["metrics"].published.metadata
    losses = {int(step): loss for step, loss in trained["held_out_losses"].items()}
    assert losses[0] == pytest.approx(figures["held_out_loss_base"], abs=1e-6)
    assert losses[trained["selected_step"]] == pytest.approx(figures["held_out_loss_lora"], abs=1e-6)
    assert abs(losses[STEPS] - losses[0]) > 1e-5
    assert results["samples"].published.metadata["lora_changes_picture"] is True
    (best,) = project.store.glob(f"runs/*/best/step-{trained['selected_step']:08d}.safetensors")
    assert largest(load_file(best), "text_encoder.")
    (snapshot,) = project.store.glob("objects/lora_checkpoint/*/snapshots/step-00000002.safetensors")
    assert any(key.startswith("text_encoder.text_model.encoder.") for key in load_file(snapshot))


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_metrics_measure_a_file_in_kohyas_keys_like_one_in_diffusers(family: str, new_project: NewProject) -> None:
    project = new_project(family)
    found: list[float] = []
    for formats in ('["diffusers"]', '["kohya"]'):
        results = project.run(*settings(family, f"export.formats={formats}"))
        found.append(results["metrics"].published.metadata["held_out_loss_lora"])
        if formats == '["kohya"]':
            assert results["lora_checkpoint"].published.metadata["rendered"] == "lora.safetensors"
    assert found[1] == pytest.approx(found[0], abs=1e-6)


@pytest.mark.setting("adapter.text_encoders")
def test_recomputed_activations_of_text_encoders_give_the_same_weights(new_project: NewProject) -> None:
    project = new_project("sd15")
    plain = project.run(*settings("sd15"), until="lora_checkpoint")["lora_checkpoint"]
    for part in TRAINED:
        shutil.rmtree(project.store / part)
    again = project.run(*settings("sd15", "train.gradient_checkpointing=true"), until="lora_checkpoint")
    assert again["lora_checkpoint"].items_computed == STEPS
    assert again["lora_checkpoint"].data_version == plain.data_version


@pytest.mark.setting("adapter.text_encoders")
def test_training_text_encoders_trains_again_and_encodes_no_picture_again(new_project: NewProject) -> None:
    project = new_project("sd15")
    project.run(f"train.steps={STEPS}", until="lora_checkpoint")
    plans = project.plan(f"train.steps={STEPS}", "adapter.text_encoders=[text_encoder]")
    assert plans["cached_latents"].status == "fresh"
    assert plans["cached_text_embeddings"].stale_count == 0
    assert plans["lora_checkpoint"].status == "stale"
