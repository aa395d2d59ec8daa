import os
import shutil
import time
from pathlib import Path

import pytest

from tests.unit.data.helpers import draw, ids, look, pair, reasons, texts
from trainer_core.config.groups import CaptionConfig, DatasetConfig
from trainer_core.data.discovery.discover import dataset_name, discover, folder_fingerprint, newest_change
from trainer_core.errors import DatasetError


def test_a_flat_folder_gives_pictures_with_captions_from_all_sub_folders(tmp_path: Path) -> None:
    pair(tmp_path, "a.png")
    draw(tmp_path / "deep/er/b.JPG").with_suffix(".caption").write_text("b")
    found = look(tmp_path)
    assert ids(found) == ["set/a.png", "set/deep/er/b.JPG"]
    assert [str(picture.caption_file).rpartition(".")[2] for picture in found.pictures] == ["txt", "caption"]
    assert found.layout == "flat"
    assert "flat folder" in texts(found.findings, "info")


def test_the_stat_of_picture_and_caption_is_that_of_the_file_system(tmp_path: Path) -> None:
    path = pair(tmp_path, "a.png")
    picture = look(tmp_path).pictures[0]
    assert (picture.stat.size, picture.stat.mtime_ns) == (path.stat().st_size, path.stat().st_mtime_ns)
    assert picture.caption_stat is not None
    assert picture.caption_stat.size == len("a cat")


@pytest.mark.parametrize("ending", ["png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff", "avif"])
def test_every_picture_ending_is_found(tmp_path: Path, ending: str) -> None:
    draw(tmp_path / f"a.{ending}")
    assert ids(look(tmp_path)) == [f"set/a.{ending}"]


@pytest.mark.parametrize("ending", ["jxl", "heic", "psd", "CR2"])
def test_pictures_without_a_decoder_are_found_and_excluded_by_name(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"a.{ending}").write_bytes(b"x")
    found = look(tmp_path)
    assert not found.pictures
    assert "no decoder" in reasons(found)[f"set/a.{ending}"]


def test_names_that_begin_with_a_dot_are_skipped_and_readme_needs_no_mention(tmp_path: Path) -> None:
    pair(tmp_path, "a.png")
    draw(tmp_path / ".hidden.png")
    draw(tmp_path / ".thumbs/b.png")
    (tmp_path / "README.md").write_text("hello")
    (tmp_path / "LICENSE").write_text("hello")
    found = look(tmp_path)
    assert ids(found) == ["set/a.png"]
    assert not found.excluded
    assert len(found.findings) == 1


def test_a_picture_called_license_plate_keeps_its_caption(tmp_path: Path) -> None:
    pair(tmp_path, "license_plate.png")
    pair(tmp_path, "readme.png")
    assert all(picture.caption_file is not None for picture in look(tmp_path).pictures)


def test_a_caption_without_a_picture_is_a_warning_that_names_it(tmp_path: Path) -> None:
    pair(tmp_path, "a.png")
    (tmp_path / "gone.txt").write_text("x")
    assert "gone.txt" in texts(look(tmp_path).findings, "warning")


def test_files_that_nothing_reads_are_counted_by_kind(tmp_path: Path) -> None:
    pair(tmp_path, "a.png")
    for name in ("a.npz", "b.npz", "clip.mp4"):
        (tmp_path / name).write_bytes(b"x")
    told = texts(look(tmp_path).findings, "info")
    assert "2 .npz (a cache of another trainer)" in told
    assert "1 .mp4 (video)" in told


def test_one_finding_names_twenty_and_counts_the_rest(tmp_path: Path) -> None:
    pair(tmp_path, "a.png")
    for number in range(50):
        (tmp_path / f"gone{number:02}.txt").write_text("x")
    told = texts(look(tmp_path).findings, "warning")
    assert "50 caption file(s)" in told
    assert "gone19.txt and 30 more" in told
    assert "gone20" not in told


def test_two_pictures_that_share_a_caption_file_are_an_error_naming_both(tmp_path: Path) -> None:
    pair(tmp_path, "a.png")
    draw(tmp_path / "a.jpg")
    found = look(tmp_path)
    assert "set/a.jpg and set/a.png" in texts(found.findings, "error")


def test_two_pictures_of_one_stem_are_fine_when_metadata_captions_each(tmp_path: Path) -> None:
    pair(tmp_path, "a.png")
    draw(tmp_path / "a.jpg")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,one\na.jpg,two\n")
    found = look(tmp_path)
    assert not texts(found.findings, "error")
    assert [picture.inline_caption for picture in found.pictures] == ["two", "one"]


def test_caption_files_of_two_kinds_are_a_warning_and_the_first_extension_wins(tmp_path: Path) -> None:
    pair(tmp_path, "a.png")
    (tmp_path / "a.caption").write_text("other")
    found = look(tmp_path, CaptionConfig(extensions=("caption", ".txt")))
    assert found.pictures[0].caption_file == str(tmp_path / "a.caption")
    assert "two kinds" in texts(found.findings, "warning")


def test_the_longest_caption_ending_decides_the_stem(tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    (tmp_path / "a.tags.txt").write_text("x")
    found = look(tmp_path, CaptionConfig(extensions=(".txt", ".tags.txt")))
    assert found.pictures[0].caption_file == str(tmp_path / "a.tags.txt")


@pytest.mark.setting("datasets.repeats", "datasets.layout")
def test_kohya_folders_give_repeats_and_class_tokens_as_fallback_caption(tmp_path: Path) -> None:
    draw(tmp_path / "10_sks_cat/a.png")
    pair(tmp_path / "3_dog", "b.png", "a dog")
    draw(tmp_path / "3_dog/deep/c.png")
    found = look(tmp_path, repeats=2)
    assert found.layout == "kohya"
    assert [(picture.repeats, picture.inline_caption) for picture in found.pictures] == [
        (20, "sks_cat"),
        (6, None),
        (6, "dog"),
    ]
    assert "2 picture(s) have no caption file" in texts(found.findings, "info")


def test_pictures_outside_kohya_folders_are_excluded_with_the_reason(tmp_path: Path) -> None:
    draw(tmp_path / "10_cat/a.png")
    draw(tmp_path / "other/b.png")
    draw(tmp_path / "0_none/c.png")
    draw(tmp_path / "d.png")
    found = look(tmp_path)
    assert ids(found) == ["set/10_cat/a.png"]
    assert set(reasons(found)) == {"set/other/b.png", "set/0_none/c.png", "set/d.png"}
    assert all("outside kohya folders" in reason for reason in reasons(found).values())


def test_a_date_is_not_a_repeat_count_and_a_year_is_asked_about(tmp_path: Path) -> None:
    draw(tmp_path / "20240101_trip/a.png")
    assert look(tmp_path).layout == "flat"
    draw(tmp_path / "2024_trip/a.png")
    assert "Is the number a year?" in texts(look(tmp_path).findings, "warning")


@pytest.mark.setting("datasets.layout")
def test_the_layout_can_be_set_against_detection(tmp_path: Path) -> None:
    draw(tmp_path / "10_cat/a.png")
    found = look(tmp_path, layout="flat")
    assert (found.layout, found.pictures[0].repeats, found.pictures[0].inline_caption) == ("flat", 1, None)
    assert "N_concept" in texts(look(tmp_path / "10_cat", layout="kohya").findings, "error")
    assert "metadata.jsonl" in texts(look(tmp_path, layout="imagefolder").findings, "error")


def test_a_kohya_folder_named_itself_is_pointed_out(tmp_path: Path) -> None:
    pair(tmp_path / "10_cat", "a.png")
    assert "10_cat" in texts(look(tmp_path / "10_cat").findings, "info")


def test_masks_and_control_pictures_are_never_trained_on(tmp_path: Path) -> None:
    pair(tmp_path, "a.png")
    draw(tmp_path / "a-masklabel.png")
    draw(tmp_path / "_controls/a.png")
    draw(tmp_path / "my_controls/b.png")
    found = look(tmp_path)
    assert ids(found) == ["set/a.png", "set/my_controls/b.png"]
    assert "mask" in reasons(found)["set/a-masklabel.png"]
    assert "control" in reasons(found)["set/_controls/a.png"]


def test_links_are_followed_and_a_loop_is_named(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    pair(outside, "far.png")
    pair(root / "sub", "a.png")
    (root / "link").symlink_to(outside, target_is_directory=True)
    (root / "file.png").symlink_to(outside / "far.png")
    (root / "sub/loop").symlink_to(root, target_is_directory=True)
    pair(tmp_path / "elsewhere", "never.png")
    (root / "up").symlink_to(tmp_path, target_is_directory=True)
    (root / "alias").symlink_to(root / "sub", target_is_directory=True)
    found = look(root)
    assert ids(found) == ["set/file.png", "set/link/far.png", "set/sub/a.png"]
    told = texts(found.findings, "warning")
    assert all(name in told for name in ("sub/loop/", "up/", "alias/"))


def test_broken_links_and_pipes_are_excluded_with_the_reason(tmp_path: Path) -> None:
    pair(tmp_path, "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    os.mkfifo(tmp_path / "c.png")
    draw(tmp_path / "d.png")
    os.mkfifo(tmp_path / "d.txt")
    found = look(tmp_path)
    assert ids(found) == ["set/a.png"]
    assert "broken link" in reasons(found)["set/b.png"]
    assert "broken link" in reasons(found)["set/self.png"]
    assert "not a regular file" in reasons(found)["set/c.png"]
    assert "caption not a regular file" in reasons(found)["set/d.png"]


def test_odd_file_names_never_crash_and_ids_are_valid_unicode(tmp_path: Path) -> None:
    good = tmp_path / "new\nline é 日本 |.png"
    shutil.copy(draw(tmp_path / "plain.png"), good)
    bad = os.fsencode(tmp_path) + b"/latin\xe9.png"
    shutil.copy(os.fsencode(tmp_path / "plain.png"), bad)
    (tmp_path / os.fsdecode(b"orphan\xff.txt")).write_text("x")
    found = look(tmp_path)
    assert len(found.pictures) == 2
    for picture in found.pictures:
        picture.id.encode()
    assert "not UTF-8" in reasons(found)["set/latin\\xe9.png"]
    for finding in found.findings:
        assert "\n" not in str(finding)
        str(finding).encode()


def test_a_missing_folder_and_a_file_are_errors_that_name_the_path(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nowhere.*does not exist"):
        look(tmp_path / "nowhere")
    file = tmp_path / "file.toml"
    file.write_text("x")
    with pytest.raises(DatasetError, match=r"file\.toml.*not a folder"):
        look(file)


def test_an_empty_folder_gives_an_empty_discovery(tmp_path: Path) -> None:
    found = look(tmp_path)
    assert not found.pictures
    assert not found.excluded


@pytest.mark.setting("datasets.name")
def test_the_name_of_a_dataset_is_that_of_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert dataset_name(DatasetConfig(path=Path("."))) == tmp_path.name
    pair(tmp_path / "cats", "a.png")
    found = discover(DatasetConfig(path=Path("cats")), CaptionConfig())
    assert ids(found) == ["cats/a.png"]
    assert found.pictures[0].path == tmp_path / "cats/a.png"


def test_discovery_does_not_depend_on_the_order_of_creation(tmp_path: Path) -> None:
    names = ["b.png", "a.png", "z/c.png", "d.png"]
    for folder, order in (("one", names), ("two", names[::-1])):
        for name in order:
            draw(tmp_path / folder / name)
    assert ids(look(tmp_path / "one")) == ids(look(tmp_path / "two"))


def test_the_fingerprint_moves_with_any_file_and_only_then(tmp_path: Path) -> None:
    path = pair(tmp_path, "a.png")
    datasets = [DatasetConfig(path=tmp_path)]
    seen = [folder_fingerprint(datasets)]
    assert folder_fingerprint(datasets) == seen[0]
    path.with_suffix(".txt").write_text("another cat")
    seen.append(folder_fingerprint(datasets))
    draw(tmp_path / "sub/b.png")
    seen.append(folder_fingerprint(datasets))
    (tmp_path / "sub/b.png").rename(tmp_path / "sub/c.png")
    seen.append(folder_fingerprint(datasets))
    shutil.rmtree(tmp_path / "sub")
    seen.append(folder_fingerprint([DatasetConfig(path=tmp_path / "gone")]))
    assert len(set(seen)) == 5


def test_the_newest_change_is_seen_when_a_file_comes_goes_or_keeps_its_mtime(tmp_path: Path) -> None:
    path = pair(tmp_path, "a.png")
    datasets = [DatasetConfig(path=tmp_path)]
    before = newest_change(datasets)
    time.sleep(0.02)  # longer than the kernel's tick, which is the resolution of ctime
    os.utime(path, (0, 0))
    after = newest_change(datasets)
    assert after > before > 0
    path.unlink()
    assert newest_change(datasets) >= after
    assert newest_change([DatasetConfig(path=tmp_path / "gone")]) == 0.0
