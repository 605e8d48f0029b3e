"""PNG and PNM files: metadata decide nothing, missing pixels do; samples have the file's range."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from image_files import GREY, RGB, chunk, encode
from numpy.typing import NDArray
from PIL import Image

from samclip.errors import ImageError, InputWarning
from samclip.runtime.pixels.image import load_image

PNG = encode(RGB, "PNG")
HEADER_END = 33


BAD_METADATA = {
    "a long text": chunk(b"zTXt", b"workflow\0\0" + zlib.compress(bytes(70_000_000), 9)),
    "many texts": chunk(b"tEXt", b"a\0" + b"b" * 1000) * 2000,
    "a text with a wrong checksum": chunk(b"tEXt", b"a\0b", spoil=1),
    "EXIF of nonsense": chunk(b"eXIf", b"garbage!"),
    "EXIF with a wrong checksum": chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\0", spoil=1),
    "EXIF with a directory without end": chunk(b"eXIf", b"II*\0\x08\0\0\0\xff\xff" + bytes(40)),
    "a profile of nonsense": chunk(b"iCCP", b"x\0\0garbage"),
    "a profile with a wrong checksum": chunk(b"iCCP", b"x\0\0", spoil=1),
    "a profile that unpacks to gigabytes": chunk(
        b"iCCP", b"x\0\0" + zlib.compress(bytes(200_000_000), 9)
    ),
    "XMP of nonsense": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0broken"),
    "a broken raw profile": chunk(
        b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n9\nxyz")
    ),
    "times and sizes": chunk(b"tIME", b"x") + chunk(b"pHYs", b"") + chunk(b"gAMA", b""),
    "an unknown chunk": chunk(b"abCd", b"anything"),
}


@pytest.mark.parametrize("name", BAD_METADATA)
def test_metadata_decide_nothing(name: str) -> None:
    before_pixels = PNG[:HEADER_END] + BAD_METADATA[name] + PNG[HEADER_END:]
    after_pixels = PNG[:-12] + BAD_METADATA[name] + PNG[-12:]
    for data in (before_pixels, after_pixels):
        np.testing.assert_array_equal(load_image(data), RGB)


def test_orientation_where_other_programs_write_it() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    body = exif.tobytes()
    raw = b"\nexif\n%8d\n" % len(body) + body.hex().encode()
    xmp = b'<x xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    turned = encode(np.rot90(RGB).copy(), "PNG")
    for block in (
        chunk(b"eXIf", body.removeprefix(b"Exif\0\0")),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw)),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp),
    ):
        got = load_image(turned[:HEADER_END] + block + turned[HEADER_END:])
        np.testing.assert_array_equal(got, RGB)


def data_chunks(data: bytes) -> bytes:
    """The compressed pixels of a PNG file that Pillow wrote."""
    at, body = HEADER_END, b""
    while data[at + 4 : at + 8] != b"IEND":
        size = int.from_bytes(data[at : at + 4], "big")
        body += data[at + 8 : at + 8 + size] if data[at + 4 : at + 8] == b"IDAT" else b""
        at += size + 12
    return body


def test_pixels_whose_checksum_or_end_is_wrong() -> None:
    """The pixels have a checksum of their own, which decides."""
    body = data_chunks(PNG)
    end = chunk(b"IEND", b"")
    for tail in (
        chunk(b"IDAT", body, spoil=1) + end,
        chunk(b"IDAT", body),
        chunk(b"IDAT", body)[:-4],
    ):
        np.testing.assert_array_equal(load_image(PNG[:HEADER_END] + tail), RGB)
    middle = len(body) // 2
    lost = body[:middle] + body[middle + 20 :]
    zeroed = body[:middle] + bytes(20) + body[middle + 20 :]
    for broken in (lost, zeroed, body[:-40], body[:-5]):
        for tail in (chunk(b"IDAT", broken, spoil=1) + end, chunk(b"IDAT", broken)):
            with pytest.raises(ImageError):
                load_image(PNG[:HEADER_END] + tail)
    with pytest.raises(ImageError, match="palette"):
        paletted = encode(Image.fromarray(RGB).convert("P"), "PNG")
        at = paletted.index(b"PLTE") + 4
        load_image(paletted[:at] + bytes([paletted[at] ^ 1]) + paletted[at + 1 :])
    with pytest.raises(ImageError, match="iPhone"):
        load_image(PNG[:8] + chunk(b"CgBI", bytes(4)) + PNG[8:])


def scaled(values: NDArray[np.integer], largest: int) -> NDArray[np.uint8]:
    return np.floor(values.astype(np.int64) * 255 / largest + 0.5).astype(np.uint8)


@pytest.mark.parametrize("largest", [1, 3, 100, 255, 256, 1023, 4095, 65_535])
def test_pnm_samples_are_scaled_by_the_files_range(largest: int) -> None:
    values = np.random.default_rng(0).integers(0, largest + 1, (40, 60, 3))
    dtype = ">u2" if largest > 255 else "u1"
    for kind, text, samples in ((6, 3, values), (5, 2, values[..., :1])):
        header = b"\n# a comment\n60 40 # size\n%d\n" % largest
        binary = b"P%d" % kind + header + samples.astype(dtype).tobytes()
        words = b"P%d" % text + header + " ".join(map(str, samples.ravel())).encode()
        expected = np.broadcast_to(scaled(samples, largest), (40, 60, 3))
        for data in (binary, words, words + b"\n"):
            np.testing.assert_array_equal(load_image(data), expected)
        for cut in (binary[:-1], words[: len(words) // 2]):
            with pytest.raises(ImageError, match="truncated"):
                load_image(cut)


def test_pbm_is_black_where_it_is_1() -> None:
    bits = GREY > 99
    expected = np.repeat(np.where(bits, 0, 255)[..., None], 3, axis=2)
    text = "".join("1" if bit else "0" for bit in bits.ravel()).encode()
    for data in (b"P4 60 40\n" + np.packbits(bits, axis=1).tobytes(), b"P1\n60 40\n" + text):
        np.testing.assert_array_equal(load_image(data), expected)
    for header in (
        b"P6 60 40 0\n",
        b"P6 60 40 65536\n",
        b"P6 60 40 \xff",
        b"P3 1 1 9\n1 x 1",
        b"P1 1 1\n7",
    ):
        with pytest.raises(ImageError):
            load_image(header + bytes(9000))


@pytest.mark.parametrize("text", [b"tEXt", b"zTXt"])
@pytest.mark.parametrize("kind", [b"exif", b"APP1"])
def test_orientation_in_texts_of_imagemagick(text: bytes, kind: bytes) -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    profile = b"\ngeneric\n%8d\n%s\n" % (len(exif), exif.hex().encode())
    body = profile if text == b"tEXt" else b"\0" + zlib.compress(profile)
    data = encode(Image.fromarray(RGB), "PNG")
    added = chunk(text, b"Raw profile type " + kind + b"\0" + body)
    assert np.array_equal(load_image(data[:33] + added + data[33:]), np.rot90(RGB, -1))


def test_dark_samples_of_16_bits_are_warned_of() -> None:
    """12 bits of a camera in samples of 16 are used as the file says, nearly black."""
    values = np.arange(96, dtype=np.uint16).reshape(8, 12) * 42
    with pytest.warns(InputWarning, match="below 4,096 of 65,535"):
        read = load_image(encode(Image.fromarray(values), "PNG"))
    assert np.array_equal(read[..., 0], scaled(values, 65_535))
    with pytest.warns(InputWarning, match="the PIL image has samples of 16 bits"):
        load_image(Image.fromarray(values))
    load_image(encode(Image.fromarray(values * 16), "PNG"))
    load_image(encode(Image.fromarray(values * 0), "PNG"))  # a lens cap
