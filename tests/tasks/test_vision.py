"""Pictures to tensors: against the sizes and values worked out by hand, and on damaged files."""

from __future__ import annotations

import io
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgebig.errors import InputError, MissingExtra
from edgebig.preprocess import Preprocess
from edgebig.tasks.vision import classify, overlay, prepare, read_picture, save_picture


def made_picture(height: int = 37, width: int = 53, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_values_are_pixel_times_scale_minus_mean_over_std_for_each_channel() -> None:
    how = Preprocess(colour="BGR", scale=0.5, mean=(1.0, 2.0, 3.0), std=(2.0, 4.0, 8.0))
    tensor = prepare(np.array([[[10, 20, 30]]], np.uint8), how)
    assert tensor.dtype == np.float32 and tensor.shape == (1, 3, 1, 1)
    assert tensor.ravel().tolist() == [(15 - 1) / 2, (10 - 2) / 4, (5 - 3) / 8]


def test_layout_moves_the_channels_last() -> None:
    picture = made_picture()
    first = prepare(picture, Preprocess(scale=1 / 255))
    last = prepare(picture, Preprocess(scale=1 / 255, layout="NHWC"))
    assert first.shape == (1, 3, 37, 53) and last.shape == (1, 37, 53, 3)
    np.testing.assert_array_equal(first.transpose(0, 2, 3, 1), last)


def test_gray_has_one_channel_with_the_luma_of_itu_r_601() -> None:
    tensor = prepare(np.array([[[255, 0, 0], [0, 255, 0], [7, 7, 7]]], np.uint8), Preprocess(colour="GRAY"))
    assert tensor.shape == (1, 1, 1, 3)
    assert tensor.ravel().tolist() == [76.0, 150.0, 7.0]


@pytest.mark.parametrize(
    ("size", "expected"),
    [((100, 50), (40, 20)), ((50, 101), (20, 40)), ((30, 30), (20, 20)), ((10, 7), (28, 20))],
)
def test_short_side_keeps_the_aspect_ratio_and_rounds_down(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert prepare(made_picture(*size), Preprocess(short_side=20)).shape[2:] == expected


def test_crop_takes_the_centre_and_pads_with_zeros_where_the_picture_is_smaller() -> None:
    picture = np.arange(1, 26, dtype=np.uint8).reshape(5, 5, 1).repeat(3, axis=2)
    inner = prepare(picture, Preprocess(crop=(3, 2)))[0, 0]
    assert inner.tolist() == [[7.0, 8.0], [12.0, 13.0], [17.0, 18.0]]
    padded = prepare(picture, Preprocess(crop=(1, 8), mean=(1.0,)))[0, 0]
    assert padded.tolist() == [[-1.0, -1.0, 10.0, 11.0, 12.0, 13.0, 14.0, -1.0]]


def test_every_kind_of_file_gives_the_same_pixels(tmp_path: Path) -> None:
    colours = np.zeros((2, 3, 3), np.uint8)
    colours[0, :] = [200, 10, 30]
    image = Image.fromarray(colours)
    palette = image.quantize(4)
    transparent = image.convert("RGBA")
    transparent.putalpha(0)
    for name, kind in (("p.png", palette), ("a.png", transparent), ("r.bmp", image), ("t.tiff", image)):
        kind.save(tmp_path / name)
        np.testing.assert_array_equal(read_picture(tmp_path / name), colours, err_msg=name)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20))
    image.paste((255, 0, 0), (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise: the red left half becomes the upper half
    image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    pixels = read_picture(tmp_path / "turned.jpg")
    assert pixels.shape == (40, 20, 3)
    assert pixels[2, 10, 0] > 240 and pixels[37, 10, 0] < 15


def test_sixteen_bit_gray_keeps_its_upper_bits(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 256, 65535]], np.uint16)).save(tmp_path / "deep.png")
    assert read_picture(tmp_path / "deep.png")[0].tolist() == [[0] * 3, [1] * 3, [255] * 3]


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's remarks on damaged TIFF tags
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_truncated_and_damaged_files_name_the_file(tmp_path: Path, kind: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(made_picture(64, 64)).save(buffer, kind)
    whole = buffer.getvalue()
    rng = np.random.default_rng(1)
    for cut in (0, 1, 9, 30, len(whole) // 2):
        path = tmp_path / f"cut{cut}.bin"
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError, match=f"cut{cut}.bin"):
            read_picture(path)
    for trial in range(40):
        damaged = bytearray(whole)
        for at in rng.integers(0, min(len(whole), 200), 6):
            damaged[at] = rng.integers(0, 256)
        path = tmp_path / f"bad{trial}.bin"
        path.write_bytes(damaged)
        try:
            assert read_picture(path).shape[2] == 3  # some damage leaves a picture
        except InputError as error:
            assert path.name in str(error) and "\n" not in str(error)


def test_a_decompression_bomb_is_refused(tmp_path: Path) -> None:
    header = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 54, 0, 0, 54, 40, 60000, 60000, 1, 24, 0, 0, 0, 0, 0, 0)
    (tmp_path / "bomb.bmp").write_bytes(header)
    with pytest.raises(InputError, match=r"bomb\.bmp"):
        read_picture(tmp_path / "bomb.bmp")
    with pytest.raises(InputError, match="1000000x1 would be resized to"):
        prepare(np.zeros((1, 1_000_000, 3), np.uint8), Preprocess(short_side=256))


def test_missing_files_and_wrong_arrays_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_picture(tmp_path / "none.png")
    with pytest.raises(InputError, match=r"found float32 \[2, 2, 3\]"):
        read_picture(np.zeros((2, 2, 3), np.float32))  # type: ignore[arg-type]


def test_without_pillow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtra, match=r'pip install "edgebig\[vision\]"'):
        prepare("any.png", Preprocess())


def test_classify_takes_logits_and_probabilities() -> None:
    logits = np.log(np.array([[0.1, 0.6, 0.3]])) + 5
    (best,) = classify(logits, labels=["cat", "dog"], top=2)
    assert [(s.index, s.label, round(s.probability, 6)) for s in best] == [(1, "dog", 0.6), (2, "2", 0.3)]
    probabilities = np.array([[0.1, 0.6, 0.3], [0.5, 0.25, 0.25]], np.float16).reshape(2, 3, 1, 1)
    first, second = classify(probabilities, labels={0: "zero"}, top=1)
    assert first[0].index == 1 and abs(first[0].probability - 0.6) < 1e-3
    assert (second[0].label, second[0].probability) == ("zero", 0.5)
    with pytest.raises(InputError, match=r"found \[1, 3, 2\]"):
        classify(np.zeros((1, 3, 2)))
    with pytest.raises(InputError, match="NaN"):
        classify(np.array([[np.nan, 1.0]]))


def test_overlay_tints_inside_the_stretched_mask(tmp_path: Path) -> None:
    picture = np.full((4, 4, 3), 100, np.uint8)
    drawn = overlay(picture, [np.array([[1, 0], [0, 0]])], [(200, 0, 100)])
    assert (drawn[:2, :2] == [150, 50, 100]).all()
    assert (drawn[2:] == 100).all() and (drawn[:, 2:] == 100).all()
    save_picture(drawn, tmp_path / "drawn.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "drawn.png"), drawn)
    with pytest.raises(InputError, match="its ending names no format"):
        save_picture(drawn, tmp_path / "drawn.unknown")
    with pytest.raises(InputError, match="1 masks, 0 colours"):
        overlay(picture, [np.ones((2, 2))], [])
