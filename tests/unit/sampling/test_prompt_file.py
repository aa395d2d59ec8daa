"""Prompts from a file in kohya's lines, JSON and TOML."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_core.errors import ConfigError
from trainer_core.sampling.prompt_file import PromptLine, read_prompt_file


def read(folder: Path, text: str, name: str = "prompts.txt") -> tuple[PromptLine, ...]:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return read_prompt_file(path)


EVERYTHING = PromptLine(
    "some, a cat--or two",
    negative_prompt="low quality, worst -- of all",
    width=768,
    height=512,
    seed=1,
    guidance=7.5,
    steps=28,
    sampler="euler_a",
)


def test_kohyas_marks_are_read_in_any_order_and_case(tmp_path: Path) -> None:
    line = "some, a cat--or two --n low quality, worst -- of all --w 768 --H 512 --d 1 --l 7.5 --s 28 --ss euler_a"
    assert read(tmp_path, line) == (EVERYTHING,)
    other = "some, a cat--or two --ss euler_a --s 28 --g 7.5 --d 1 --h 512 --w 768 --n low quality, worst -- of all"
    assert read(tmp_path, other) == (EVERYTHING,)


def test_comments_and_empty_lines_are_no_prompts(tmp_path: Path) -> None:
    text = "\ufeff# kohya's comment\n\n  a cat  \n\t# another\na #1 dog --d 3\r\n"
    assert read(tmp_path, text) == (PromptLine("a cat"), PromptLine("a #1 dog", seed=3))


def test_json_and_toml_say_the_same_in_our_names_and_in_kohyas(tmp_path: Path) -> None:
    ours = """[{"prompt": "some, a cat--or two", "negative_prompt": "low quality, worst -- of all", "width": 768,
        "height": 512, "seed": 1, "guidance": 7.5, "steps": 28, "sampler": "euler_a"}, "a dog"]"""
    assert read(tmp_path, ours, "a.json") == (EVERYTHING, PromptLine("a dog"))
    toml = """[[prompt]]\nprompt = "some, a cat--or two"\nnegative_prompt = "low quality, worst -- of all"
width = 768\nheight = 512\nseed = 1\nscale = 7.5\nsample_steps = 28\nsample_sampler = "euler_a"\n"""
    assert read(tmp_path, toml, "a.toml") == (EVERYTHING,)
    kohya = """[prompt]\nwidth = 768\nscale = 6\n[[prompt.subset]]\nprompt = "a cat"\n[[prompt.subset]]
prompt = "a dog"\nwidth = 512\n"""
    assert read(tmp_path, kohya, "b.toml") == (
        PromptLine("a cat", width=768, guidance=6.0),
        PromptLine("a dog", width=512, guidance=6.0),
    )


def test_control_pictures_are_named_beside_their_prompt(tmp_path: Path) -> None:
    assert read(tmp_path, "make it blue --ci a.png --ci b c.png")[0].controls == ("a.png", "b c.png")
    assert read(tmp_path, '[{"prompt": "x", "control": "a.png"}]', "a.json")[0].controls == ("a.png",)


WRONG = [
    ("a.txt", "fine\n\na cat --x 3", r"a\.txt:3: `--x` is not a mark of a prompt"),
    ("a.txt", "a cat --w many", r"a\.txt:1: `--w` is 'many', wanted a whole number from 16 to 8192"),
    ("a.txt", "a cat --w 4", "wanted a whole number from 16"),
    ("a.txt", "a cat --d -1", "wanted a whole number from 0"),
    ("a.txt", "a cat --ss", "wanted a sampler's name"),
    ("a.txt", "a cat --l nan", "wanted a number from 0 to 100"),
    ("a.txt", "a cat --l 3 --g 4", "`--g` gives guidance a second time"),
    ("a.txt", "# nothing\n", "has no prompt"),
    ("a.json", "[\n{]", r"a\.json:2: is not JSON"),
    ("a.json", "{}", "holds no list"),
    ("a.json", '[{"prompt": "x", "sede": 3}]', r"a\.json, prompt 1: `sede` is not a setting of a prompt"),
    ("a.json", '["x", {"seed": 3}]', "prompt 2: has no `prompt`"),
    ("a.json", '[{"prompt": "x", "seed": 1.5}]', "`seed` is 1.5, wanted a whole number"),
    ("a.json", '[{"prompt": "x", "seed": true}]', "`seed` is True"),
    ("a.json", '[{"prompt": 3}]', "`prompt` is 3, wanted text"),
    ("a.json", "[3]", "prompt 1: is 3, wanted text or a table"),
    ("a.toml", "prompt = [", "is not TOML"),
    ("a.toml", "x = 1", r"has no \[\[prompt\]\]"),
]


@pytest.mark.parametrize(("name", "text", "message"), WRONG, ids=lambda value: str(value)[:30])
def test_what_is_wrong_is_told_with_file_and_place(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read(tmp_path, text, name)
    (finding,) = caught.value.findings
    assert finding.field == "sample.prompt_file" and finding.fix


def test_every_wrong_line_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, "a --q 1\nb --w x --h y\n")
    places = [found[1] for one in caught.value.findings if (found := re.search(r"txt:(\d)", one.message))]
    assert places == ["1", "2", "2"]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere.txt: does not exist"):
        read_prompt_file(tmp_path / "nowhere.txt")


WORDS = st.text(st.characters(whitelist_categories=("L", "N")), min_size=1, max_size=8)


@given(
    st.lists(WORDS, min_size=1, max_size=5),
    st.integers(0, 2**63 - 1),
    st.integers(16, 8192),
    st.floats(0, 100, allow_nan=False),
)
def test_any_line_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, words: list[str], seed: int, width: int, guidance: float
) -> None:
    prompt = " ".join(words)
    path = tmp_path_factory.mktemp("any") / "prompts.txt"
    path.write_text(f"{prompt} --d {seed} --w {width} --l {guidance!r} --n {prompt}\n", encoding="utf-8")
    expected = PromptLine(prompt, negative_prompt=prompt, seed=seed, width=width, guidance=guidance)
    assert read_prompt_file(path) == (expected,)
