"""Which samples lie beside the model card as pictures of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer_core.stages.samples import SAMPLES
from trainer_core.store import Published, Store


def result(store: Store, columns: list[str], rows: int = 2) -> Published:
    with store.objects.staging("samples", "k" * 64) as staging:
        (staging / "grid.png").write_bytes(b"grid")
        for column in columns:
            (staging / "pictures" / column).mkdir(parents=True)
            for row in range(rows):
                (staging / "pictures" / column / f"{row:02d}.png").write_bytes(f"{column}{row}".encode())
        return store.objects.publish("samples", "k" * 64, staging, data_version="v", recipe={}, metadata={})


@pytest.mark.parametrize(
    ("columns", "chosen"),
    [
        (["base", "step-2", "LoRA-0.5", "LoRA-1", "LoRA-1.5"], "LoRA-1"),
        (["base", "LoRA-0.25", "LoRA-0.75"], "LoRA-0.75"),
        (["base", "LoRA-2", "LoRA-1.25"], "LoRA-1.25"),
    ],
)
def test_it_is_the_lora_at_the_strength_nearest_1(tmp_path: Path, columns: list[str], chosen: str) -> None:
    published = result(Store.open(tmp_path / "store"), columns)
    assert SAMPLES.more_outputs(published) == {
        f"pictures/{chosen}/00.png": "sample-1.png",
        f"pictures/{chosen}/01.png": "sample-2.png",
    }


def test_of_many_prompts_the_first_eight_have_a_picture(tmp_path: Path) -> None:
    published = result(Store.open(tmp_path / "store"), ["base", "LoRA-1"], rows=12)
    assert sorted(SAMPLES.more_outputs(published).values()) == [f"sample-{number}.png" for number in range(1, 9)]


def test_pictures_of_prompts_that_are_gone_are_this_stages_to_remove() -> None:
    assert SAMPLES.is_own_output("sample-3.png", "cats")
    assert not SAMPLES.is_own_output("samples.png", "cats")
    assert not SAMPLES.is_own_output("sample-3.safetensors", "cats")
