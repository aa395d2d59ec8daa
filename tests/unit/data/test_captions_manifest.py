"""Captions of a folder: where they come from, what samples have of them, and what is told."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.data.helpers import SMALL_BUCKETS, draw, look, pair, read_all, sample, texts
from trainer_core.config.groups import CaptionConfig, TagsConfig
from trainer_core.data.build_manifest import build_manifest
from trainer_core.data.captions.caption_variants import caption_rules
from trainer_core.data.captions.sample_captions import CaptionPlan
from trainer_core.data.discovery.discover import Discovery
from trainer_core.data.draft import ManifestRules
from trainer_core.data.manifest import Manifest
from trainer_core.types import CaptionSource


def build(
    *discoveries: Discovery, caption: CaptionConfig | None = None, preserved: str | None = None, **tags: Any
) -> Manifest:
    caption = caption or CaptionConfig()
    plan = CaptionPlan(caption_rules(caption, TagsConfig.model_validate(tags)), preserved)
    return build_manifest(
        list(discoveries), read_all(list(discoveries)), ManifestRules(caption, SMALL_BUCKETS, 8, captions=plan)
    )


def captions(manifest: Manifest) -> list[str]:
    return [one.caption for one in manifest.samples]


@pytest.mark.setting("caption.prefix", "caption.suffix")
def test_prefix_and_suffix_stand_around_every_caption_behind_the_trigger_word(tmp_path: Path) -> None:
    pair(tmp_path, "a.png", "a cat")
    frame = CaptionConfig(prefix="a photo of", suffix="on a mat", trigger_word="sks")
    assert captions(build(look(tmp_path), caption=frame)) == ["sks, a photo of a cat on a mat"]


@pytest.mark.setting("caption.trigger_word", "datasets.trigger_word")
@pytest.mark.parametrize(
    ("line", "trigger", "caption"),
    [
        ("[trigger] sits", "sks", "sks sits"),
        ("sks, a [trigger] cat", "sks", "sks, a sks cat"),
        ("[trigger], a cat", "", "a cat"),
        ("a cat, [trigger]", "", "a cat"),
        ("a cat", "sks", "sks, a cat"),
    ],
)
def test_the_trigger_word_stands_in_place_of_its_mark(tmp_path: Path, line: str, trigger: str, caption: str) -> None:
    pair(tmp_path, "a.png", line)
    assert captions(build(look(tmp_path), caption=CaptionConfig(trigger_word=trigger))) == [caption]
    assert captions(build(look(tmp_path, trigger_word=trigger), caption=CaptionConfig(trigger_word="x"))) == [caption]


def test_a_mark_without_a_trigger_word_is_told(tmp_path: Path) -> None:
    pair(tmp_path, "a.png", "[trigger], a cat")
    assert "set/a.png" in texts(build(look(tmp_path)).findings, "warning")
    with_word = build(look(tmp_path), caption=CaptionConfig(trigger_word="sks"))
    assert "[trigger]" not in texts(with_word.findings, "warning")


@pytest.mark.setting("datasets.class_tokens")
def test_class_tokens_are_the_caption_of_pictures_without_a_file(tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    pair(tmp_path, "b.png", "a dog", (1, 2, 3))
    discovery = look(tmp_path, class_tokens="a cat")
    manifest = build(discovery, caption=CaptionConfig(trigger_word="sks"))
    assert captions(manifest) == ["sks, a cat", "sks, a dog"]
    assert "1 picture(s) have no caption file: 'a cat' is their caption: set/a.png" in texts(manifest.findings, "info")
    assert not manifest.errors


def test_class_tokens_go_before_a_kohya_folders_name_and_behind_metadata(tmp_path: Path) -> None:
    draw(tmp_path / "kohya" / "2_dog" / "a.png")
    assert captions(build(look(tmp_path / "kohya", class_tokens="a cat"))) == ["a cat"]
    folder = tmp_path / "table"
    draw(folder / "a.png")
    draw(folder / "b.png", colour=(9, 9, 9))
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "text": "a dog"}) + "\n")
    assert captions(build(look(folder, class_tokens="a cat"))) == ["a dog", "a cat"]


@pytest.mark.setting("caption.missing")
def test_an_empty_caption_file_is_missing_with_class_tokens_too(tmp_path: Path) -> None:
    pair(tmp_path, "a.png", "")
    pair(tmp_path, "b.png", "a dog", (1, 2, 3))
    manifest = build(look(tmp_path, class_tokens="a cat"), caption=CaptionConfig(missing="exclude"))
    assert captions(manifest) == ["a dog"]
    assert build(look(tmp_path, class_tokens="a cat")).errors


@pytest.mark.setting("caption.extensions")
def test_the_first_ending_that_is_there_gives_the_caption(tmp_path: Path) -> None:
    pair(tmp_path, "a.png", "from txt").with_suffix(".tags").write_text("from tags")
    for extensions, caption in (((".txt", ".tags"), "from txt"), (("tags", ".txt"), "from tags")):
        rules = CaptionConfig(extensions=extensions)
        assert captions(build(look(tmp_path, rules), caption=rules)) == [caption]


@pytest.mark.setting("caption.multiline")
def test_lines_of_files_and_of_metadata_are_all_used_where_asked_for(tmp_path: Path) -> None:
    pair(tmp_path / "files", "a.png", "one\n\ntwo\n")
    draw(tmp_path / "table" / "a.png")
    (tmp_path / "table" / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "text": "one\ntwo"}) + "\n")
    for folder, first in ((tmp_path / "files", "one"), (tmp_path / "table", "one two")):
        assert build(look(folder)).samples[0].texts == ()
        assert captions(build(look(folder))) == [first]
        assert captions(build(look(folder), caption=CaptionConfig(multiline="whole"))) == ["one two"]
        each = build(look(folder), caption=CaptionConfig(multiline="each")).samples[0]
        assert (each.caption, each.texts, each.epoch_groups) == ("one", ("one", "two"), 2)
        random = build(look(folder), caption=CaptionConfig(multiline="random")).samples[0]
        assert (random.texts, random.epoch_groups) == (("one", "two"), 1)


def test_the_caption_itself_has_nothing_random_and_no_marks(tmp_path: Path) -> None:
    pair(tmp_path, "a.png", "{x|y} cat, b;;;c ||| d, e")
    caption = CaptionConfig(wildcards=True, trigger_word="sks")
    marks = {"keep_tokens_separator": "|||", "secondary_separator": ";;;"}
    one = build(look(tmp_path), caption=caption, shuffle=True, dropout=0.5, **marks).samples[0]
    assert one.caption == "sks, x cat, b,c, d, e"
    assert build(look(tmp_path), caption=caption, **marks).samples[0].texts == (
        "sks, x cat, b,c, d, e",
        "sks, y cat, b,c, d, e",
    )


@pytest.mark.setting("caption.prefix", "tags.keep_tokens_separator")
def test_marks_may_stand_in_prefix_and_suffix_as_in_kohyas_example(tmp_path: Path) -> None:
    pair(tmp_path, "a.png", "c, d")
    caption = CaptionConfig(prefix="1girl, miku |||", suffix=", screencap ||| masterpiece, rating: general")
    manifest = build(look(tmp_path), caption=caption, shuffle=True, keep_tokens_separator="|||")
    (one,) = manifest.samples
    assert len(one.texts) == 6
    assert all(text.startswith("1girl, miku, ") for text in one.texts)
    assert all(text.endswith(", masterpiece, rating: general") for text in one.texts)
    assert "no caption has '|||'" not in texts(manifest.findings, "info")


@pytest.mark.setting("loss.preservation_class", "loss.preservation_weight")
@pytest.mark.parametrize(
    ("line", "trigger", "class_caption"),
    [
        ("a photo of sks on a sofa", "sks", "a photo of person on a sofa"),
        ("a sofa", "sks", "person, a sofa"),
        ("[trigger] and masks", "sks", "person and masks"),
        ("a sofa", "", "person"),
    ],
)
def test_the_class_stands_in_place_of_the_trigger_word(
    tmp_path: Path, line: str, trigger: str, class_caption: str
) -> None:
    pair(tmp_path, "a.png", line)
    caption = CaptionConfig(trigger_word=trigger)
    assert build(look(tmp_path), caption=caption, preserved="person").samples[0].class_caption == class_caption
    assert build(look(tmp_path), caption=caption).samples[0].class_caption == ""


def test_held_out_pictures_have_their_caption_alone(tmp_path: Path) -> None:
    for number in range(5):
        pair(tmp_path, f"{number}.png", "a, b, c", (number, 0, 0))
    manifest = build(look(tmp_path), preserved="cat", shuffle=True)
    split = {one.split: (len(one.texts), one.class_caption) for one in manifest.samples}
    assert split == {"train": (6, "cat"), "held_out": (0, "")}


def test_the_data_version_is_what_it_was_where_nothing_is_drawn() -> None:
    one = sample("set/a.png", caption="{a|b}, c")
    row = ["set/a.png", "0" * 64, "{a|b}, c", (64, 64), (64, 64, 64, 64, 0, 0, 64, 64), 1, "train"]
    text = json.dumps([row], ensure_ascii=False, separators=(",", ":"))
    assert Manifest((one,), (), (), 1).data_version == hashlib.sha256(text.encode()).hexdigest()


def test_the_data_version_moves_exactly_when_texts_do() -> None:
    rules = caption_rules(CaptionConfig(), TagsConfig(shuffle=True))
    kinds = [
        sample("a"),
        sample("a", texts=("x", "y")),
        sample("a", texts=("x", "x", "y")),
        sample("a", texts=("x", "y"), epoch_groups=2),
        sample("a", class_caption="x"),
        sample("a", source=CaptionSource(("x",), "", rules)),
        sample("a", source=CaptionSource(("x",), "sks", rules)),
    ]
    assert len({Manifest((one,), (), (), 1).data_version for one in kinds}) == len(kinds)
    listed = sample("a", texts=("x", "y"), source=CaptionSource(("z",), "", rules))
    assert Manifest((listed,), (), (), 1).data_version == Manifest((kinds[1],), (), (), 1).data_version


@pytest.mark.parametrize(
    ("line", "caption", "tags", "level", "told"),
    [
        ("a {b|c}", {}, {}, "warning", "1 caption(s) have wildcards `{a|b}`, which are read as they stand"),
        ("a", {"wildcards": True}, {}, "info", "no caption has a wildcard"),
        ("a", {}, {"keep_tokens_separator": "|||"}, "info", "no caption has '|||'"),
        ("a", {}, {"secondary_separator": ";;;"}, "info", "no caption has ';;;'"),
        ("a", {}, {"shuffle": True}, "warning", "no caption has tags that could be moved or dropped"),
        ("a, b", {}, {"dropout": 0.5, "keep_tokens": 2}, "warning", "no caption has tags that could be moved"),
        ("a cat on a mat", {}, {"dropout": 0.5}, "warning", "1 caption(s) are a single tag, which is left out whole"),
    ],
)
def test_settings_that_miss_the_captions_are_told(
    tmp_path: Path, line: str, caption: dict[str, Any], tags: dict[str, Any], level: str, told: str
) -> None:
    pair(tmp_path, "a.png", line)
    found = build(look(tmp_path), caption=CaptionConfig.model_validate(caption), **tags).findings
    assert told in texts(found, level)
    (tmp_path / "a.txt").write_text("{a|b} ||| c;;;d, e, f, g")
    found = build(look(tmp_path), caption=CaptionConfig.model_validate({"wildcards": True} | caption), **tags).findings
    assert told not in texts(found, level)
