"""JPEG files: pixels as Pillow's, none for files with missing or foreign data, bounded work."""

from __future__ import annotations

import io
import struct
import time
from typing import Any

import numpy as np
import pytest
from image_files import RGB, encode
from numpy.typing import NDArray
from PIL import Image

from samclip.errors import ClosedError, ImageError
from samclip.runtime.pixels.decode import decode_bytes
from samclip.runtime.pixels.image import load_image

KINDS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "optimised": {"optimize": True},
    "progressive": {"progressive": True},
    "full chroma": {"subsampling": 0},
    "restarts": {"restart_marker_rows": 1},
    "many restarts": {"restart_marker_blocks": 2},
    "progressive, restarts": {"progressive": True, "restart_marker_rows": 1},
}
SECTOR = 512


def as_pillow(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def damaged(data: bytes, at: int) -> dict[str, bytes]:
    """The file with a sector lost at a byte of its pixels, in several ways."""
    end = b"\xff\xd9"
    return {
        "a sector lost": data[:at] + data[at + SECTOR :],
        "a sector of zeros": data[:at] + bytes(SECTOR) + data[at + SECTOR :],
        "a sector of ones": data[:at] + b"\xff" * SECTOR + data[at + SECTOR :],
        "a sector of another place": data[:at] + data[-SECTOR:] + data[at + SECTOR :],
        "cut": data[:at],
        "cut and ended": data[:at] + end,
    }


@pytest.mark.parametrize("name", KINDS)
def test_pictures_with_missing_data_are_refused(name: str, photo: NDArray[np.uint8]) -> None:
    data = encode(photo, "JPEG", quality=90, **KINDS[name])
    np.testing.assert_array_equal(load_image(data), as_pillow(data))
    np.testing.assert_array_equal(load_image(data[:-2]), as_pillow(data))  # without an end
    start = data.rindex(b"\xff\xda") if "progressive" in name else data.index(b"\xff\xda")
    whole = as_pillow(data).astype(int)
    for at in np.linspace(start + 20, len(data) - 2 * SECTOR, 12).astype(int):
        for how, broken in damaged(data, int(at)).items():
            try:
                got = load_image(broken)
            except ImageError as error:
                assert "damaged" in str(error) or "truncated" in str(error)
                continue
            # In a scan that refines, one code may happen to stand for all that is missing.
            most = 0.2 if name == "progressive" else 0.02
            wrong = (np.abs(got - whole).max(axis=2) > 8).mean()
            assert wrong < most, f"{how} at {at}: {wrong:.0%} of the pixels are wrong"
    for lost in range(3, 60, 7):  # the very end
        with pytest.raises(ImageError, match=r"truncated|damaged"):
            load_image(data[:-lost])


def test_scans_that_are_missing_altogether(photo: NDArray[np.uint8]) -> None:
    data = encode(photo, "JPEG", progressive=True)
    places = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    for place in places[1:]:
        with pytest.raises(ImageError, match=r"scans are missing|damaged"):
            load_image(data[:place] + b"\xff\xd9")


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 40, 40)])
def test_flat_pictures_are_whole(colour: tuple[int, int, int]) -> None:
    """Their data are next to nothing, in tables of their own long runs of zeros."""
    for options in KINDS.values():
        data = encode(Image.new("RGB", (1500, 1000), colour), "JPEG", **options)
        np.testing.assert_array_equal(load_image(data), as_pillow(data))


def test_padding_after_the_data_is_no_damage() -> None:
    data = encode(RGB, "JPEG", quality=95)
    for padding in (bytes(1), bytes(40), b"\xff" * 40):
        got = load_image(data[:-2] + padding + data[-2:])
        np.testing.assert_array_equal(got, as_pillow(data))


def test_broken_metadata_decide_nothing() -> None:
    data = encode(RGB, "JPEG", quality=95)
    blocks = [
        b"\xff\xe1" + struct.pack(">H", 20) + b"Exif\0\0garbage!garbag",
        b"\xff\xe1" + struct.pack(">H", 60_000) + b"Exif\0\0",  # longer than the file
        b"\xff\xe2" + struct.pack(">H", 16) + b"ICC_PROFILE\0\1\1",
        b"\xff\xed" + struct.pack(">H", 20) + b"Photoshop 3.0\08BI",
        b"\xff\xe0" + struct.pack(">H", 3) + b"J",
        b"\xff\xfe" + struct.pack(">H", 0),
        b"\xff\xe1" + struct.pack(">H", 12) + b"Exif\0\0MM\0*",
    ]
    for block in blocks:
        np.testing.assert_array_equal(load_image(data[:2] + block + data[2:]), as_pillow(data))


def test_cmyk_is_inverted_only_where_adobe_says_so() -> None:
    cmyk = Image.fromarray(RGB).convert("CMYK")
    expected = np.asarray(cmyk.convert("RGB")).astype(int)
    data = encode(cmyk, "JPEG", quality=95)
    inverted = encode(Image.eval(cmyk, lambda value: 255 - value), "JPEG", quality=95)
    at = inverted.index(b"\xff\xee")
    plain = inverted[:at] + inverted[at + 16 :]  # without Adobe's marker
    for source in (data, plain):
        assert np.abs(load_image(source).astype(int) - expected).max() <= 12


def slow_progressive(width: int, height: int, scans: int) -> bytes:
    """A small file of many scans, each of which says of all blocks: nothing new.

    Each is of one coefficient, as no sound file's are.
    """
    data = encode(Image.new("RGB", (16, 16)), "JPEG", progressive=True)
    frame = data.index(b"\xff\xc2")
    head = bytearray(data[: data.index(b"\xff\xda")])
    head[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    for kind, symbol in ((0x00, 0x00), (0x10, 0xE0)):  # one code, 0: no change; 2^14 empty blocks
        head += b"\xff\xc4" + struct.pack(">H", 20) + bytes([kind, 1, *[0] * 15, symbol])
    groups = -(-width // 16) * -(-height // 16)
    body = b"\xff\xda\0\x0c\3\1\0\2\0\3\0\0\0\0" + bytes(-(-groups * 6 // 8))
    for component, blocks in ((1, 4 * groups), (2, groups), (3, groups)):
        runs = "".join("0" + "1" * 14 for _ in range(-(-blocks // (2**15 - 1))))
        runs += "1" * (-len(runs) % 8)
        packed = int(runs, 2).to_bytes(len(runs) // 8, "big").replace(b"\xff", b"\xff\0")
        for i in range(1, scans + 1):
            last = 63 if i == scans else i
            body += b"\xff\xda\0\x08\1" + bytes([component, 0, i, last, 0]) + packed
    return bytes(head) + body + b"\xff\xd9"


def test_scans_without_number_are_refused_before_decoding() -> None:
    assert load_image(slow_progressive(160, 160, 3)).shape == (160, 160, 3)
    began = time.monotonic()
    for source in (slow_progressive(9440, 9440, 10), slow_progressive(16, 16, 34)):
        with pytest.raises(ImageError, match="scans"):
            load_image(source)
    assert time.monotonic() - began < 5


def test_decoding_can_be_stopped() -> None:
    """A pause is made before each scan, and what it raises ends the work."""
    calls = 0

    def pause() -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise ClosedError("closed")

    with pytest.raises(ClosedError):
        decode_bytes(slow_progressive(160, 160, 20), 10**9, pause=pause)
    assert calls == 5


def test_pixels_of_a_large_photo_are_pillows(photo: NDArray[np.uint8]) -> None:
    """Above 4 megapixels the picture is converted in bands, also where it is turned."""
    large = Image.fromarray(photo).resize((2700, 1800))
    for orientation, name in ((1, "baseline"), (6, "progressive"), (7, "restarts")):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encode(large, "JPEG", exif=exif, **KINDS[name])
        turns = {1: None, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE}
        turn = turns[orientation]
        opened = Image.open(io.BytesIO(data)).convert("RGB")
        expected = opened if turn is None else opened.transpose(turn)
        np.testing.assert_array_equal(load_image(data), np.asarray(expected))
