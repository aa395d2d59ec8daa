"""The bundled dataset and its maker."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demo.drawings import BACKGROUNDS, POSITIONS
from demo.judge import is_zorbling
from demo.make_dataset import NUM_ZORBLINGS, PROMPTS, Drawn, known_pictures, pictures, write_dataset, zorbling

DEMO = Path(__file__).parents[3] / "demo"
DATASET = DEMO / "dataset"


@pytest.mark.parametrize(("folder", "made"), [("dataset", pictures()), ("known", known_pictures())])
def test_the_maker_reproduces_the_bundled_pictures_and_captions(folder: str, made: list[Drawn]) -> None:
    assert sorted(p.stem for p in (DEMO / folder).glob("*.png")) == [name for name, _, _ in made]
    for name, picture, text in made:
        with Image.open(DEMO / folder / f"{name}.png") as stored:
            assert stored.mode == "RGB"
            assert np.array_equal(np.asarray(stored), np.asarray(picture)), name
        assert (DEMO / folder / f"{name}.txt").read_text(encoding="utf-8") == text + "\n"


def test_the_known_drawings_show_no_zorbling_and_are_called_none() -> None:
    assert not any(is_zorbling(picture) or "zorbling" in text for _, picture, text in known_pictures())


def test_the_dataset_is_small_and_varied() -> None:
    made = pictures()
    scenes = [zorbling(i) for i in range(NUM_ZORBLINGS)]
    assert len(made) >= 30
    assert len({picture.size for _, picture, _ in made}) >= 4
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)
    assert {scene.position for scene in scenes} == set(POSITIONS)
    assert sum(p.stat().st_size for p in DATASET.iterdir()) < 300_000


def test_every_picture_has_a_caption_and_no_other_file_looks_like_one(tmp_path: Path) -> None:
    write_dataset(tmp_path, pictures(), "about them\n")
    captions = {p.stem for p in tmp_path.glob("*.txt")}
    assert captions == {p.stem for p in tmp_path.glob("*.png")}
    assert "CC0-1.0" in (tmp_path / "LICENSE").read_text(encoding="utf-8")


def test_sampling_prompts_name_the_concept() -> None:
    assert len(PROMPTS) == 4
    assert all("zorbling" in prompt for prompt in PROMPTS)
