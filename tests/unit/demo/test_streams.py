"""The pretraining data."""

from pathlib import Path
from random import Random

import pytest
import torch

from demo import drawings
from demo.base_model import build_vae
from demo.drawings import is_held_out
from demo.pretrain import picture_loss
from demo.streams import (
    BUCKETS,
    COMPARED_DRAWINGS,
    LatentBank,
    bank_scenes,
    build_bank,
    doodle,
    picture_batch,
    to_pixels,
)


def test_the_bank_holds_no_held_out_combination() -> None:
    scenes = [scene for bucket in bank_scenes(seed=0, size=2000).values() for scene in bucket]
    assert len(scenes) == pytest.approx(2000, abs=5)
    assert not [s for s in scenes if is_held_out(s.shape, s.colour, s.background)]


def test_pictures_depend_on_the_seed_and_the_step_alone() -> None:
    assert torch.equal(picture_batch(0, 3, 1), picture_batch(0, 3, 1))
    assert picture_batch(0, 3, 1).shape[1] == 3
    first = doodle(Random(4), 48, 32)
    assert first.size == (48, 32)
    assert first.tobytes() == doodle(Random(4), 48, 32).tobytes() != b""


def test_a_stored_bank_is_read_back_and_a_changed_recipe_encodes_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae, file = build_vae(), tmp_path / "bank"
    built, read = (build_bank(vae, 0, 20, file) for _ in range(2))
    assert all(torch.equal(built.latents[bucket], read.latents[bucket]) for bucket in BUCKETS)
    assert len(build_bank(vae, 0, 30, file).scenes[64, 64]) > len(read.scenes[64, 64])
    scenes, latents = read.batch(Random(1), 3)
    assert len(scenes) == len(latents) == 3
    assert latents.dtype == torch.float32


def test_a_stored_bank_is_made_anew_when_the_drawings_or_the_encoder_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    vae, file = build_vae(), tmp_path / "bank"

    def bank() -> LatentBank:
        return build_bank(vae, 0, 20, file)

    def same(first: LatentBank, second: LatentBank) -> bool:
        return all(torch.equal(first.latents[bucket], second.latents[bucket]) for bucket in BUCKETS)

    first = bank()
    with monkeypatch.context() as patch:
        # The scenes stay what they were; only their colour on the canvas is another.
        patch.setitem(drawings.BACKGROUNDS, "white", (254, 254, 254))
        assert not same(bank(), first)
    assert same(bank(), first)
    made = file.read_bytes()
    with torch.no_grad():
        vae.decoder.conv_in.bias.add_(1.0)
        assert same(bank(), first) and file.read_bytes() == made
        vae.encoder.conv_in.bias.add_(1.0)
    assert not same(bank(), first)


def test_the_drawings_that_tell_a_stale_bank_show_every_shape_colour_and_background() -> None:
    some = [scene for drawn in bank_scenes(0, 24_000).values() for scene in drawn[:COMPARED_DRAWINGS]]
    assert {scene.shape for scene in some} == set(drawings.SHAPES)
    assert {scene.colour for scene in some} == set(drawings.COLOURS)
    assert {scene.background for scene in some} == set(drawings.BACKGROUNDS)
    assert {scene.creature for scene in some} == {False, True}


def test_the_loss_of_a_perfect_picture_is_zero() -> None:
    pixels = to_pixels([doodle(Random(1), 32, 32)])
    assert float(picture_loss(pixels, pixels)) == 0.0
    assert float(picture_loss(pixels, pixels + 0.1)) == pytest.approx(0.12, abs=1e-4)
