"""Prompts with marks become settings of all samples, or a prompt file that our samples read."""

from __future__ import annotations

from pathlib import Path

from trainer_core.importers.core.key_table import Context
from trainer_core.importers.core.prompts import convert_prompts, parse_line
from trainer_core.sampling.prompt_file import read_prompt_file

CONTEXT = Context({}, "sdxl", False, Path(), stem="cats")


def test_marks_that_all_lines_share_become_settings() -> None:
    lines = ["a cat --w 768 --h 512 --l 7.5 --s 28 --n blurry", "a dog --w 768 --h 512 --l 7.5 --s 28 --n blurry"]
    conversion = convert_prompts([parse_line(line) for line in lines], CONTEXT)
    assert conversion.settings == {
        "sample.prompts": ["a cat", "a dog"],
        "sample.width": 768,
        "sample.height": 512,
        "sample.guidance": 7.5,
        "sample.steps": 28,
        "sample.negative_prompt": "blurry",
    }


def test_marks_that_differ_go_into_a_prompt_file(tmp_path: Path) -> None:
    lines = ["a cat --w 768 --d 7", "a dog --n blurry"]
    conversion = convert_prompts([parse_line(line) for line in lines], CONTEXT)
    assert conversion.settings == {"sample.prompt_file": "cats.prompts.json"}
    file = tmp_path / "cats.prompts.json"
    file.write_text(conversion.files["cats.prompts.json"], encoding="utf-8")
    cat, dog = read_prompt_file(file)
    assert (cat.prompt, cat.width, cat.seed) == ("a cat", 768, 7)
    assert (dog.prompt, dog.negative_prompt, dog.width) == ("a dog", "blurry", None)


def test_a_mark_that_is_not_read_is_reported() -> None:
    conversion = convert_prompts([parse_line("a cat --am 0.5 --w 512")], CONTEXT)
    assert conversion.status == "changed"
    assert "--am" in conversion.note
    assert conversion.settings["sample.width"] == 512
