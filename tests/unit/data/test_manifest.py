import shutil
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.data.helpers import SMALL_BUCKETS, bucket_config, build, draw, look, pair, read_all, reasons, texts
from trainer_core.config.groups import CaptionConfig, DatasetConfig
from trainer_core.data.build_manifest import build_manifest
from trainer_core.data.captions.caption_file import CaptionText
from trainer_core.data.discovery.discover import Discovery, Exclusion, PictureFile
from trainer_core.data.draft import FileFacts, ManifestRules
from trainer_core.data.epoch.holdout import HoldoutShare, held_out_pictures
from trainer_core.data.manifest import Manifest
from trainer_core.data.pictures.picture_info import PictureInfo
from trainer_core.errors import ConfigError, DatasetError
from trainer_core.types import Bucket, FileStat


def many(folder: Path, count: int) -> Path:
    for number in range(count):
        pair(folder, f"{number:03}.png", f"cat {number}", (number % 256, number // 256, 7))
    return folder


def test_samples_carry_everything_that_encoding_needs(tmp_path: Path) -> None:
    path = pair(tmp_path / "sub", "a.png")
    manifest = build(look(tmp_path, repeats=3), caption=CaptionConfig(trigger_word="sks"))
    sample = manifest.samples[0]
    assert (sample.id, sample.path, sample.caption, sample.repeats) == ("set/sub/a.png", path, "sks, a cat", 3)
    assert sample.bucket == Bucket(64, 64)
    assert sample.geometry.target == (64, 64)
    assert len(sample.picture) == 64


@pytest.mark.setting("datasets.trigger_word")
def test_a_dataset_can_have_a_trigger_word_of_its_own_or_none(tmp_path: Path) -> None:
    pair(tmp_path, "a.png")
    rules = CaptionConfig(trigger_word="sks")
    for own, caption in ((None, "sks, a cat"), ("ohwx", "ohwx, a cat"), ("", "a cat")):
        assert build(look(tmp_path, trigger_word=own), caption=rules).samples[0].caption == caption


def test_found_is_used_plus_excluded_and_each_reason_is_named(tmp_path: Path) -> None:
    many(tmp_path, 5)
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "a.heic").write_bytes(b"x")
    pair(tmp_path, "latin.png").with_suffix(".txt").write_bytes(b"na\xefve")
    manifest = build(look(tmp_path))
    assert (manifest.total, len(manifest.samples), len(manifest.excluded)) == (9, 5, 4)
    told = reasons(manifest)
    assert "not a picture" in told["set/text.png"]
    assert "empty file" in told["set/empty.png"]
    assert "no decoder" in told["set/a.heic"]
    assert "caption is not UTF-8" in told["set/latin.png"]
    assert texts(manifest.findings, "warning").count("left out") == 4


def test_a_manifest_that_lost_a_picture_cannot_be_built() -> None:
    with pytest.raises(AssertionError):
        Manifest((), (), (), 1)


def test_a_file_without_a_hash_is_excluded_as_unreadable(tmp_path: Path) -> None:
    many(tmp_path, 3)
    discovery = look(tmp_path)
    known = read_all([discovery])
    hashes, captions = dict(known.hashes), dict(known.captions)
    del hashes[str(tmp_path / "000.png")]
    del captions[str(tmp_path / "001.txt")]
    manifest = build_manifest(
        [discovery], FileFacts(hashes, known.infos, captions), ManifestRules(CaptionConfig(), SMALL_BUCKETS, 8)
    )
    assert "unreadable" in reasons(manifest)["set/000.png"]
    assert "caption unreadable" in reasons(manifest)["set/001.png"]


def test_a_missing_caption_is_an_error_that_names_the_picture(tmp_path: Path) -> None:
    many(tmp_path, 2)
    draw(tmp_path / "bare.png")
    pair(tmp_path, "blank.png", " \n")
    manifest = build(look(tmp_path))
    assert "2 picture(s) have no caption: set/bare.png, set/blank.png" in texts(manifest.errors, "error")
    assert len(manifest.samples) == 2


def test_a_missing_caption_can_leave_the_picture_out_or_train_it_on_nothing(tmp_path: Path) -> None:
    many(tmp_path, 2)
    draw(tmp_path / "bare.png")
    without = build(look(tmp_path), caption=CaptionConfig(missing="exclude"))
    assert reasons(without) == {"set/bare.png": "no caption: there is no caption file, or it is empty"}
    assert not without.errors
    empty = build(look(tmp_path), caption=CaptionConfig(missing="empty"))
    assert [sample.caption for sample in empty.samples] == ["cat 0", "cat 1", ""]
    assert "set/bare.png" in texts(empty.findings, "warning")


def test_files_of_several_lines_are_counted_under_first_line_only(tmp_path: Path) -> None:
    many(tmp_path, 2)
    pair(tmp_path, "lines.png", "one\n\ntwo\n")
    first = build(look(tmp_path))
    assert "1 caption file(s) have several lines" in texts(first.findings, "info")
    whole = build(look(tmp_path), caption=CaptionConfig(multiline="whole"))
    assert "several lines" not in texts(whole.findings, "info")
    assert [manifest.samples[-1].caption for manifest in (first, whole)] == ["one", "one two"]


def test_half_a_surrogate_pair_in_metadata_is_excluded_not_a_crash(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        draw(tmp_path / name)
    rows = '{"file_name": "a.png", "text": "x\\ud800"}\n{"file_name": "b.png", "text": "ok"}'
    (tmp_path / "metadata.jsonl").write_text(rows)
    manifest = build(look(tmp_path))
    assert "not UTF-8" in reasons(manifest)["set/a.png"]
    assert manifest.data_version


def test_copies_of_a_picture_are_a_warning_and_are_all_used(tmp_path: Path) -> None:
    many(tmp_path, 4)
    shutil.copy(tmp_path / "000.png", tmp_path / "copy.png")
    (tmp_path / "copy.txt").write_text("a copy")
    manifest = build(look(tmp_path))
    assert len(manifest.samples) == 5
    assert "set/000.png = set/copy.png" in texts(manifest.findings, "warning")


def test_heavy_crops_and_enlargements_are_warnings(tmp_path: Path) -> None:
    many(tmp_path, 2)
    for name, size in (("long.png", (600, 60)), ("tiny.png", (9, 9))):
        draw(tmp_path / name, size)
        (tmp_path / name).with_suffix(".txt").write_text("x")
    told = texts(build(look(tmp_path)).findings, "warning")
    assert "set/long.png" in told
    assert "enlarged more than 2 times: set/tiny.png" in told


def test_decoding_notes_are_counted(tmp_path: Path) -> None:
    from PIL import Image

    many(tmp_path, 2)
    Image.new("RGBA", (64, 64), (0, 0, 0, 0)).save(tmp_path / "000.png")
    assert "1 picture(s): the file has transparency" in texts(build(look(tmp_path)).findings, "info")


def test_pictures_too_small_for_any_bucket_are_excluded_when_nothing_may_grow(tmp_path: Path) -> None:
    many(tmp_path, 2)
    draw(tmp_path / "000.png", (20, 20))
    bucket = SMALL_BUCKETS.model_copy(update={"upscale": False})
    assert "too small" in reasons(build(look(tmp_path), bucket=bucket))["set/000.png"]


def test_an_unusable_folder_is_an_error_that_says_what_was_seen(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no file ends like a picture"):
        build(look(tmp_path))
    (tmp_path / "a.png").write_text("hello")
    draw(tmp_path / "b.png")
    with pytest.raises(DatasetError) as caught:
        build(look(tmp_path))
    told = str(caught.value)
    assert str(tmp_path) in told
    assert "(2 pictures found, none usable: 1 no caption, 1 not a picture)" in told
    assert "caption.missing" in told


@pytest.mark.setting("datasets.name")
def test_two_datasets_of_one_name_are_an_error(tmp_path: Path) -> None:
    many(tmp_path, 2)
    with pytest.raises(DatasetError, match="2 datasets are named set"):
        build(look(tmp_path), look(tmp_path))


def test_impossible_buckets_are_a_configuration_error(tmp_path: Path) -> None:
    many(tmp_path, 2)
    with pytest.raises(ConfigError, match=r"bucket\.min_side"):
        build(look(tmp_path), bucket=bucket_config(resolution=64))


def test_the_data_version_moves_with_meaning_and_with_nothing_else(tmp_path: Path) -> None:
    many(tmp_path / "one", 6)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    version = build(look(tmp_path / "one")).data_version
    assert build(look(tmp_path / "two")).data_version == version
    (tmp_path / "two/bad.png").write_text("excluded pictures mean nothing")
    assert build(look(tmp_path / "two")).data_version == version
    changed = {
        build(look(tmp_path / "one", repeats=2)).data_version,
        build(look(tmp_path / "one", held_out=0.5)).data_version,
        build(look(tmp_path / "one", name="other")).data_version,
        build(look(tmp_path / "one"), caption=CaptionConfig(trigger_word="sks")).data_version,
        build(look(tmp_path / "one"), bucket=SMALL_BUCKETS.model_copy(update={"resolution": 48})).data_version,
    }
    draw(tmp_path / "two/000.png", colour=(9, 9, 9))
    changed.add(build(look(tmp_path / "two")).data_version)
    assert len(changed | {version}) == 7


def test_another_picture_of_the_same_name_and_shape_is_another_data_version(tmp_path: Path) -> None:
    many(tmp_path, 3)
    before = build(look(tmp_path, held_out=0)).data_version
    draw(tmp_path / "000.png", colour=(9, 9, 9))
    assert build(look(tmp_path, held_out=0)).data_version != before


@pytest.mark.setting("datasets.held_out")
def test_a_dataset_of_four_holds_out_one_and_the_user_is_told(tmp_path: Path) -> None:
    manifest = build(look(many(tmp_path, 4), held_out=0.01))
    assert [sample.split for sample in manifest.samples].count("held_out") == 1
    assert "1 of 4 pictures are held out" in texts(manifest.findings, "info")


def test_too_few_pictures_to_hold_any_out_is_a_warning(tmp_path: Path) -> None:
    assert "No picture could be held out" in texts(build(look(many(tmp_path, 2))).findings, "warning")
    assert not texts(build(look(tmp_path, held_out=0)).findings, "warning")


def test_a_picture_in_two_datasets_is_on_one_side_of_the_split(tmp_path: Path) -> None:
    many(tmp_path / "one", 20)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    manifest = build(look(tmp_path / "one", held_out=0.3), look(tmp_path / "two", name="two", held_out=0.2))
    sides: dict[str, set[str]] = {}
    for sample in manifest.samples:
        sides.setdefault(sample.picture, set()).add(sample.split)
    assert all(len(side) == 1 for side in sides.values())
    assert sum(side == {"held_out"} for side in sides.values()) == 6


CONTENTS = st.lists(st.integers(0, 40).map(str), min_size=1, max_size=60)
SHARES = st.floats(0, 0.5)


@given(CONTENTS, SHARES)
@example(contents=["a"], share=0.5)
def test_the_split_takes_about_its_share_and_never_most_of_the_data(contents: list[str], share: float) -> None:
    held = held_out_pictures({"a": HoldoutShare(share, contents)})
    count = sum(content in held for content in contents)
    assert count < len(contents)
    assert count <= max(int(share * len(contents) + 0.5), len(contents) // 2)
    if len(set(contents)) == len(contents) >= 4 and share > 0:
        assert count == max(1, int(share * len(contents) + 0.5))
    assert held == held_out_pictures({"a": HoldoutShare(share, contents[::-1])})
    assert share > 0 or not held


@given(CONTENTS, CONTENTS, SHARES)
def test_what_a_dataset_of_share_zero_holds_is_never_held_out(one: list[str], two: list[str], share: float) -> None:
    held = held_out_pictures({"one": HoldoutShare(share, one), "two": HoldoutShare(0.0, two)})
    assert not held & set(two)


def test_one_more_picture_hardly_moves_the_split() -> None:
    before = held_out_pictures({"a": HoldoutShare(0.1, [str(number) for number in range(1000)])})
    after = held_out_pictures({"a": HoldoutShare(0.1, [str(number) for number in range(1001)])})
    assert len(before ^ after) <= 2


STATES = st.sampled_from(["good", "no hash", "broken", "bad caption", "no caption", "tiny", "excluded"])


@given(st.lists(STATES, min_size=1, max_size=30), st.sampled_from(["error", "exclude", "empty"]))
def test_every_found_picture_is_used_or_excluded_exactly_once(states: list[str], missing: str) -> None:
    discovery, known = _imagine([*states, "good"])
    config = CaptionConfig.model_validate({"missing": missing})
    bucket = SMALL_BUCKETS.model_copy(update={"upscale": False})
    manifest = build_manifest([discovery], known, ManifestRules(config, bucket, 8))
    names = [sample.id for sample in manifest.samples] + [exclusion.path for exclusion in manifest.excluded]
    assert manifest.total == len(states) + 1 == len(names) == len(set(names))
    assert names[: len(manifest.samples)] == sorted(names[: len(manifest.samples)])
    used = {"good", "no caption"} if missing == "empty" else {"good"}
    assert len(manifest.samples) == sum(state in used for state in states) + 1
    assert len(manifest.findings) < 12
    assert bool(manifest.errors) == (missing == "error" and "no caption" in states)


def _imagine(states: list[str]) -> tuple[Discovery, FileFacts]:
    """Pictures in the given states, without a disk."""
    stat = FileStat(1, 1, 1, 1)
    pictures: list[PictureFile] = []
    excluded: list[Exclusion] = []
    hashes: dict[str, str] = {}
    infos: dict[str, PictureInfo] = {}
    captions: dict[str, CaptionText] = {}
    for number, state in enumerate(states):
        path, caption = Path(f"/d/{number}.png"), Path(f"/d/{number}.txt")
        if state == "excluded":
            excluded.append(Exclusion(f"set/{number}.png", "no decoder: x"))
            continue
        pictures.append(PictureFile(f"set/{number}.png", str(path), stat, 1, str(caption), stat))
        if state != "no hash":
            hashes[str(path)] = f"{number:064}"
        side = 8 if state == "tiny" else 64
        infos[f"{number:064}"] = PictureInfo(side, side, "RGB", 1, "damaged: x" if state == "broken" else None)
        problem = "caption is not UTF-8: x" if state == "bad caption" else None
        captions[str(caption)] = CaptionText(() if problem or state == "no caption" else ("a cat",), problem)
    dataset = DatasetConfig.model_validate({"path": "/d", "held_out": 0.1})
    discovery = Discovery("set", Path("/d"), "flat", dataset, tuple(pictures), tuple(excluded), ())
    return discovery, FileFacts(hashes, infos, captions)
