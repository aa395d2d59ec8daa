import json
from pathlib import Path

import pandas as pd
import pytest

from tests.unit.data.helpers import build, draw, look, pair
from trainer_core.data.manifest import Manifest
from trainer_core.data.reports.tables import (
    bucket_table,
    excluded_frame,
    statistics,
    to_frame,
    to_markdown,
    write_parquet,
)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    for number in range(8):
        pair(tmp_path / "3_cat", f"{number}.png", "a cat " * (number + 1), (number, 0, 0))
    draw(tmp_path / "3_cat/wide.png", (128, 40)).with_suffix(".txt").write_text("a | cat")
    draw(tmp_path / "3_cat/copy.png", (128, 40)).with_suffix(".txt").write_text("a | cat")
    (tmp_path / "3_cat/bad.png").write_text("hello")
    return build(look(tmp_path, held_out=0.2))


def test_the_frame_has_a_row_a_sample_and_no_paths(manifest: Manifest, tmp_path: Path) -> None:
    frame = to_frame(manifest)
    assert list(frame["id"]) == [sample.id for sample in manifest.samples]
    row = frame.set_index("id").loc["set/3_cat/wide.png"]
    assert (row["original_width"], row["original_height"], row["repeats"], row["dataset"]) == (128, 40, 3, "set")
    assert str(tmp_path) not in frame.to_csv()


def test_excluded_pictures_have_a_frame_too(manifest: Manifest) -> None:
    frame = excluded_frame(manifest)
    assert frame.loc[0, "path"] == "set/3_cat/bad.png"
    assert frame.loc[0, "cause"] == "not a picture"


def test_parquet_comes_back_equal_and_has_the_same_bytes_twice(manifest: Manifest, tmp_path: Path) -> None:
    first, second = tmp_path / "1.parquet", tmp_path / "2.parquet"
    write_parquet(manifest, first)
    write_parquet(manifest, second)
    assert first.read_bytes() == second.read_bytes()
    assert pd.read_parquet(first).to_dict("records") == to_frame(manifest).to_dict("records")


def test_statistics_add_up_and_are_json(manifest: Manifest) -> None:
    numbers = statistics(manifest)
    assert json.loads(json.dumps(numbers)) == numbers
    assert numbers["found"] == numbers["used"] + numbers["excluded"] == 11
    assert numbers["train"] + numbers["held_out"] == 10
    assert numbers["held_out"] == 2
    assert numbers["seen_per_epoch"] == 3 * numbers["train"]
    assert numbers["excluded_by_cause"] == {"not a picture": 1}
    assert numbers["duplicate_groups"] == 1
    assert numbers["width"] == {"min": 64.0, "p25": 64.0, "median": 64.0, "p75": 64.0, "max": 128.0}
    assert numbers["caption_words"]["max"] == 16.0
    assert numbers["datasets"] == {"set": {"pictures": 10, "held_out": 2, "repeats": {"3": 10}}}


def test_the_bucket_table_counts_what_batches_are_made_of(manifest: Manifest) -> None:
    table = bucket_table(manifest)
    assert table["pictures"].sum() == 10
    assert (table["train"] + table["held_out"] == table["pictures"]).all()
    assert (table["seen_per_epoch"] == 3 * table["train"]).all()
    assert list(table["aspect"]) == sorted(table["aspect"])
    assert "64x64" in set(table["bucket"])


def test_markdown_escapes_cells_and_counts_the_rows_it_leaves_out() -> None:
    frame = pd.DataFrame({"a": ["x|y", "line\nbreak", "z"], "b": [1.5, 2.0, 3.25]})
    lines = to_markdown(frame, limit=2).split("\n")
    assert lines[:4] == ["| a | b |", "| --- | --- |", "| x\\|y | 1.5 |", "| line<br>break | 2 |"]
    assert lines[-1] == "... and 1 more rows"
