import json
import os
from pathlib import Path

import pytest

from tests.unit.data.helpers import draw, look, pair, texts


def captions(folder: Path) -> dict[str, str | None]:
    return {picture.id: picture.inline_caption for picture in look(folder).pictures}


@pytest.mark.parametrize("column", ["text", "prompt", "caption"])
def test_jsonl_captions_come_from_any_of_the_three_columns(tmp_path: Path, column: str) -> None:
    draw(tmp_path / "train/a.png")
    row = json.dumps({"file_name": "train/a.png", column: "ein Kätzchen"}, ensure_ascii=False)
    (tmp_path / "metadata.jsonl").write_text(f"\ufeff{row}\n\n", encoding="utf-8")
    found = look(tmp_path)
    assert found.layout == "imagefolder"
    assert found.pictures[0].inline_caption == "ein Kätzchen"
    assert "sub-folders train" in texts(found.findings, "info")


def test_text_goes_before_prompt_and_an_empty_cell_counts_as_no_caption(tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    draw(tmp_path / "b.png")
    rows = [{"file_name": "a.png", "prompt": "p", "text": "t"}, {"file_name": "b.png", "text": None}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    assert captions(tmp_path) == {"set/a.png": "t", "set/b.png": ""}


def test_csv_cells_may_hold_commas_and_lines(tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text('file_name,text\na.png,"a cat, sitting\non a mat"\n')
    assert captions(tmp_path) == {"set/a.png": "a cat, sitting\non a mat"}


def test_parquet_metadata_is_read(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    draw(tmp_path / "a.png")
    frame = pandas.DataFrame({"file_name": ["a.png"], "text": ["a cat"], "image": [b"bytes"]})
    frame.to_parquet(tmp_path / "metadata.parquet")
    assert captions(tmp_path) == {"set/a.png": "a cat"}


def test_metadata_in_sub_folders_is_relative_to_its_own_folder(tmp_path: Path) -> None:
    for split in ("train", "test"):
        draw(tmp_path / split / "a.png")
        (tmp_path / split / "metadata.csv").write_text(f"file_name,text\na.png,{split} cat\n")
    assert captions(tmp_path) == {"set/test/a.png": "test cat", "set/train/a.png": "train cat"}


def test_a_picture_that_metadata_does_not_name_falls_back_to_its_caption_file(tmp_path: Path) -> None:
    pair(tmp_path, "a.png")
    draw(tmp_path / "b.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\nb.png,b\n")
    first, second = look(tmp_path).pictures
    assert (first.inline_caption, first.caption_file) == (None, str(tmp_path / "a.txt"))
    assert second.inline_caption == "b"


def test_a_metadata_caption_beside_a_caption_file_is_a_warning(tmp_path: Path) -> None:
    pair(tmp_path, "a.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,b\n")
    assert "have a caption file too" in texts(look(tmp_path).findings, "warning")


def test_rows_for_absent_and_outside_pictures_are_warnings(tmp_path: Path) -> None:
    draw(tmp_path / "set/a.png")
    rows = "file_name,text\na.png,b\ngone.png,c\n../out.png,d\n/etc/e.png,e\n"
    (tmp_path / "set/metadata.csv").write_text(rows)
    told = texts(look(tmp_path / "set").findings, "warning")
    assert "gone.png" in told
    assert "outside the dataset folder: ../out.png, /etc/e.png" in told


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("metadata.jsonl", b'{"file_name": "a.png", "text": "x"}\n{oops', "line 2 is not JSON"),
        ("metadata.jsonl", b"[1]", "not a JSON object"),
        ("metadata.jsonl", b"\xff\xfe\x00", "cannot be read"),
        ("metadata.csv", b"file,text\na.png,b\n", "no column file_name; it has file, text"),
        ("metadata.csv", b"file_name,words\na.png,b\n", "no column text, prompt, caption; it has file_name, words"),
        ("metadata.csv", b"file_name,text\na.png,b\na.png,c\n", "second, different caption"),
        ("metadata.parquet", b"not parquet", "cannot be read"),
    ],
)
def test_broken_metadata_is_an_error_that_says_what_is_wrong(
    tmp_path: Path, name: str, content: bytes, told: str
) -> None:
    draw(tmp_path / "a.png")
    (tmp_path / name).write_bytes(content)
    assert told in texts(look(tmp_path).findings, "error")


def test_parquet_without_the_columns_is_an_error(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    draw(tmp_path / "a.png")
    pandas.DataFrame({"file_name": ["a.png"], "words": ["a cat"]}).to_parquet(tmp_path / "metadata.parquet")
    assert "no column text" in texts(look(tmp_path).findings, "error")


def test_metadata_in_two_formats_uses_jsonl_and_says_so(tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,from csv\n")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "from jsonl"}')
    found = look(tmp_path)
    assert found.pictures[0].inline_caption == "from jsonl"
    assert "metadata.csv" in texts(found.findings, "warning")


def test_a_pipe_named_metadata_does_not_hang(tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    os.mkfifo(tmp_path / "metadata.csv")
    assert "not a regular file" in texts(look(tmp_path).findings, "error")
