import io
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from trainer_core.data.pictures import decode
from trainer_core.data.pictures.buckets import cover_bucket
from trainer_core.data.pictures.decode import load_rgb, probe, to_bucket
from trainer_core.data.pictures.picture_info import PictureInfo, PictureProblem
from trainer_core.types import Bucket, Geometry

RED, WHITE = (255, 0, 0), (255, 255, 255)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def arrow() -> Image.Image:
    """40 x 20, red on its left quarter: no two of the eight orientations look alike."""
    image = Image.new("RGB", (40, 20), "white")
    ImageDraw.Draw(image).rectangle((0, 0, 9, 19), fill="red")
    ImageDraw.Draw(image).rectangle((0, 0, 39, 4), fill="blue")
    return image


def corner(source: bytes) -> tuple[int, ...]:
    return tuple(np.asarray(load_rgb(source))[0, 0])


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF"])
def test_every_format_is_decoded_whatever_its_name(tmp_path: Path, form: str) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(Image.new("RGB", (40, 20), RED), form))
    info = probe(path)
    assert (info.width, info.height, info.frames, info.problem) == (40, 20, 1, None)
    image = load_rgb(path)
    assert image.mode == "RGB"
    assert np.abs(np.asarray(image, dtype=int) - RED).max() <= 3


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright_for_all_eight_exif_orientations(form: str, orientation: int) -> None:
    upright = arrow()
    undo = {value: key for key, value in INVERSE.items()}.get(orientation, orientation)
    turn = decode.TURNS.get(undo)
    stored = upright.transpose(turn) if turn is not None else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if form == "WEBP" else {"quality": 100, "subsampling": 0} if form == "JPEG" else {}
    raw = encoded(stored, form, exif=exif, **options)
    assert (probe(raw).width, probe(raw).height) == (40, 20)
    difference = np.abs(np.asarray(load_rgb(raw), dtype=int) - np.asarray(upright, dtype=int))
    assert difference.mean() < 3


INVERSE = {6: 8, 8: 6}
"""Quarter turns are undone by the opposite one; the other orientations by themselves."""


def test_broken_exif_is_noted_and_does_not_stop_the_picture() -> None:
    raw = encoded(arrow(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\xff" + b"\xff" * 30)
    info = probe(raw)
    assert (info.width, info.height, info.problem) == (40, 20, None)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0)).convert(mode)
    raw = encoded(image, "TIFF" if mode == "PA" else "PNG")
    assert corner(raw) == WHITE
    assert probe(raw).notes == (decode.TRANSPARENT,)


def test_half_transparent_red_becomes_pink() -> None:
    assert corner(encoded(Image.new("RGBA", (8, 8), (255, 0, 0, 128)), "PNG")) == (255, 127, 127)


def test_an_opaque_alpha_channel_changes_nothing_and_is_not_noted() -> None:
    raw = encoded(Image.new("RGBA", (8, 8), (*RED, 255)), "PNG")
    assert corner(raw) == RED
    assert probe(raw).notes == ()


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_a_transparent_palette_entry_is_laid_on_white(form: str) -> None:
    image = Image.new("P", (8, 8), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    assert corner(encoded(image, form, transparency=0)) == WHITE
    assert corner(encoded(image, form)) == (0, 0, 0)


def test_a_transparent_rgb_colour_is_laid_on_white() -> None:
    assert corner(encoded(Image.new("RGB", (8, 8), RED), "PNG", transparency=RED)) == WHITE


@pytest.mark.parametrize(("mode", "value", "grey"), [("1", 1, 255), ("1", 0, 0), ("L", 77, 77)])
def test_grey_and_black_and_white_pictures_become_rgb(mode: str, value: int, grey: int) -> None:
    assert corner(encoded(Image.new(mode, (8, 8), value), "PNG")) == (grey,) * 3


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk_is_not_inverted(form: str) -> None:
    red = corner(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), form))
    assert red[0] > 245
    assert max(red[1:]) < 10


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(form: str) -> None:
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    raw = encoded(Image.fromarray(values), form)
    assert np.asarray(load_rgb(raw))[0, :, 0].tolist() == [0, 1, 128, 255]
    assert probe(raw).notes == (decode.DEEP,)


def test_big_endian_sixteen_bit_grey_is_read_in_its_own_order() -> None:
    image = Image.new("I;16B", (2, 1))
    image.putpixel((1, 0), 0x8000)
    assert np.asarray(load_rgb(encoded(image, "TIFF")))[0, :, 0].tolist() == [0, 128]


@pytest.mark.parametrize(
    ("values", "grey"),
    [([0.0, 0.5, 1.0], [0, 128, 255]), ([0.0, 51.0, 255.0], [0, 51, 255]), ([-10.0, 0.0, 10.0], [0, 128, 255])],
)
def test_float_grey_is_scaled_by_its_range(values: list[float], grey: list[int]) -> None:
    raw = encoded(Image.fromarray(np.array([values], dtype=np.float32)), "TIFF")
    assert np.asarray(load_rgb(raw))[0, :, 0].tolist() == grey


def test_thirty_two_bit_grey_beyond_sixteen_bits_uses_its_whole_range() -> None:
    raw = encoded(Image.fromarray(np.array([[0, 1_000_000, 2_000_000]], dtype=np.int32)), "TIFF")
    assert np.asarray(load_rgb(raw))[0, :, 0].tolist() == [0, 128, 255]


def test_nan_in_a_picture_is_a_problem() -> None:
    raw = encoded(Image.fromarray(np.array([[np.nan, 1.0]], dtype=np.float32)), "TIFF")
    assert "NaN" in (probe(raw).problem or "")


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_an_animation_is_used_and_noted(form: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, (0, 255, 0), (0, 0, 255))]
    raw = encoded(frames[0], form, save_all=True, append_images=frames[1:], lossless=True)
    info = probe(raw)
    assert info.frames == 3
    assert decode.ANIMATED in info.notes
    assert np.abs(np.subtract(corner(raw), RED, dtype=int)).max() <= 1


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF"])
def test_a_truncated_picture_is_a_problem(form: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    raw = encoded(Image.fromarray(noise), form)
    problem = probe(raw[: len(raw) * 2 // 3]).problem or ""
    assert problem.startswith(("damaged:", "not a picture:"))


def test_empty_files_text_and_missing_files_are_problems(tmp_path: Path) -> None:
    assert (probe(b"").problem or "").startswith("empty file:")
    assert (probe(b"<html>404</html>").problem or "").startswith("not a picture:")
    assert (probe(tmp_path / "gone.png").problem or "").startswith("unreadable:")
    with pytest.raises(PictureProblem, match="not a picture"):
        load_rgb(b"hello")


def test_what_the_machine_could_not_do_is_not_a_lasting_fact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not probe(tmp_path / "gone.png").lasting
    assert probe(b"hello").lasting
    raw = encoded(arrow(), "PNG")
    assert probe(raw).lasting

    def exhausted(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(decode, "_to_rgb", exhausted)
    info = probe(raw)
    assert (info.problem or "").startswith("out of memory: 40x20")
    assert not info.lasting


def test_a_decompression_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "MAX_PIXELS", 10_000)
    limit = Image.MAX_IMAGE_PIXELS
    assert (probe(encoded(Image.new("L", (200, 200)), "PNG")).problem or "").startswith("too large: 200x200")
    assert limit == Image.MAX_IMAGE_PIXELS


def test_a_picture_above_pillows_own_limit_but_below_ours_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    raw = encoded(Image.new("L", (200, 200)), "PNG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert probe(raw).problem is None
    assert decode.MAX_PIXELS > 200_000_000


def test_pillows_warnings_do_not_reach_the_user() -> None:
    raw = encoded(arrow(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\xff\xff\xff\x7f\0\0\0\0")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        probe(raw)
    assert not caught


def test_an_icc_profile_is_noted_unless_it_is_srgb() -> None:
    assert probe(encoded(arrow(), "PNG", icc_profile=b"Adobe RGB (1998)")).notes == (decode.PROFILE,)
    assert probe(encoded(arrow(), "PNG", icc_profile=b"sRGB IEC61966-2.1")).notes == ()


def test_info_survives_json() -> None:
    info = probe(encoded(Image.new("RGBA", (8, 4), (0, 0, 0, 9)), "PNG"))
    assert PictureInfo.from_json(info.to_json()) == info
    assert (info.width, info.height, info.mode) == (8, 4, "RGBA")


def test_a_bucket_holds_the_centre_of_the_resized_picture() -> None:
    image = Image.new("RGB", (100, 50), "white")
    ImageDraw.Draw(image).rectangle((25, 0, 74, 49), fill=RED)
    array = to_bucket(image, cover_bucket(100, 50, Bucket(32, 32)))
    assert (array.shape, array.dtype, array.flags.writeable) == ((32, 32, 3), np.uint8, True)
    assert np.abs(array.astype(int) - RED)[:, 2:-2].max() < 10


def test_a_picture_of_the_buckets_own_size_is_not_touched() -> None:
    noise = np.random.default_rng(1).integers(0, 255, (32, 48, 3), dtype=np.uint8)
    same = Geometry((32, 48), (32, 48), (0, 0), (32, 48))
    assert (to_bucket(Image.fromarray(noise), same) == noise).all()


def test_decoding_is_the_same_in_many_threads_at_once() -> None:
    noise = np.random.default_rng(2).integers(0, 255, (90, 70, 3), dtype=np.uint8)
    raw = encoded(Image.fromarray(noise), "JPEG")
    geometry = cover_bucket(70, 90, Bucket(32, 48))
    expected = to_bucket(load_rgb(raw), geometry)
    barrier = threading.Barrier(8)

    def work(_: int) -> bool:
        barrier.wait()
        return all((to_bucket(load_rgb(raw), geometry) == expected).all() for _ in range(10))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


MAKERS: dict[str, Callable[[], bytes]] = {
    form: lambda form=form: encoded(arrow(), form) for form in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
}


@given(st.sampled_from(sorted(MAKERS)), st.data())
def test_damage_anywhere_gives_a_picture_or_a_problem_never_a_crash(form: str, data: st.DataObject) -> None:
    raw = bytearray(MAKERS[form]())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    info = probe(bytes(raw))
    assert info.problem is not None or (info.width > 0 and info.height > 0)
