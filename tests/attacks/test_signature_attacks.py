"""Bundles without a valid signature by the right key: refused before a byte is parsed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from damage import COUNTS, draw_bits, flip_bit, forge_manifest
from figures import Figures
from tiny_bundle import write_tiny_bundle

import samclip
from samclip.errors import SignatureError, UnsafePathError
from samclip.runtime.bundles.bundle import Bundle, sign_bundle
from samclip.runtime.bundles.manifest_file import read_manifest
from samclip.runtime.bundles.signature import PrivateKey, PublicKey

pytest.importorskip("cryptography")

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

MINE, OTHERS = (
    PrivateKey(
        Path(name), Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())
    )
    for name in ("mine", "others")
)
FAULT = "signature: wrong, damaged or missing"


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    return sign_bundle(write_tiny_bundle(tmp_path / "bundle"), MINE)


@pytest.fixture
def no_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise AssertionError("unsigned bytes were parsed")

    for name in ("manifest_file.decode_manifest", "manifest_file.json", "bundle.parse_weights"):
        monkeypatch.setattr(f"samclip.runtime.bundles.{name}", unreachable)


def changed(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    forge_manifest(bundle, json.dumps({**manifest, "name": "other"}).encode())


def same_meaning(bundle: Path) -> None:
    forge_manifest(bundle, (bundle / "manifest.json").read_bytes() + b"\n")


def of_another_bundle(bundle: Path) -> None:
    other = sign_bundle(write_tiny_bundle(bundle.with_name("other"), name="other"), MINE)
    shutil.copy(other / "manifest.sig", bundle / "manifest.sig")


def write(data: bytes) -> Callable[[Path], object]:
    return lambda bundle: (bundle / "manifest.sig").write_bytes(data)


def cut(length: int) -> Callable[[Path], object]:
    def change(bundle: Path) -> None:
        path = bundle / "manifest.sig"
        path.write_bytes(path.read_bytes()[:length])

    return change


ATTACKS: dict[str, Callable[[Path], object]] = {
    "no signature": lambda bundle: (bundle / "manifest.sig").unlink(),
    "another key": lambda bundle: sign_bundle(bundle, OTHERS),
    "of another bundle of mine": of_another_bundle,
    "changed manifest": changed,
    "same meaning, other bytes": same_meaning,
    "hostile manifest": lambda bundle: forge_manifest(bundle, b"[" * 100_000),
    "empty": cut(0),
    "one byte short": cut(63),
    "half": cut(32),
    "one byte more": lambda bundle: write((bundle / "manifest.sig").read_bytes() + b"\n")(bundle),
    "zeros": write(bytes(64)),
    "ones": write(b"\xff" * 64),
    "text": write(b"-----BEGIN SSH SIGNATURE-----\n"),
    "a megabyte": write(bytes(2**20)),
    "identity point": write(b"\1" + bytes(63)),
}


@pytest.mark.usefixtures("signed")
@pytest.mark.parametrize("change", ATTACKS.values(), ids=ATTACKS)
def test_refused_before_anything_is_parsed(
    change: Callable[[Path], object],
    signed: Path,
    request: pytest.FixtureRequest,
    figures: Figures,
) -> None:
    change(signed)
    request.getfixturevalue("no_parser")
    with pytest.raises(SignatureError) as caught:
        Bundle.open(signed, MINE.public)
    assert type(caught.value) is SignatureError
    assert str(signed) in str(caught.value)
    figures.add(FAULT, count=1, found="refused before a byte is parsed")


@pytest.mark.parametrize("name", ["manifest.sig", "manifest.json"])
def test_links(name: str, signed: Path, figures: Figures) -> None:
    outside = signed.with_name("outside")
    (signed / name).rename(outside)
    (signed / name).symlink_to(outside)
    for key in (MINE.public, None):
        with pytest.raises(UnsafePathError):
            Bundle.open(signed, key)
    figures.add(FAULT, count=1, found="refused before a byte is parsed")


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", ["manifest.sig", "manifest.json"])
def test_flipped_bits(name: str, count: int, signed: Path, figures: Figures) -> None:
    whole = (signed / name).read_bytes()
    for bit in draw_bits(whole, count):
        flipped = flip_bit(whole, bit)
        if name == "manifest.json":
            forge_manifest(signed, flipped)
        else:
            (signed / name).write_bytes(flipped)
        with pytest.raises(SignatureError):
            Bundle.open(signed, MINE.public)
    figures.add(f"signature: {name} with a flipped bit", count=count, found="refused")


def test_files_are_bound_by_the_signed_manifest(signed: Path) -> None:
    """The signature covers one file; its digests cover the others."""
    victim = signed / "encoder.onnx"
    victim.write_bytes(bytes(victim.stat().st_size))
    bundle = Bundle.open(signed, MINE.public)
    with pytest.raises(samclip.IntegrityError):
        bundle.source("encoder", "onnxruntime")


def test_a_signature_that_the_manifest_lists_is_refused(signed: Path) -> None:
    """The manifest cannot list it, and only the check reads it."""
    manifest = json.loads((signed / "manifest.json").read_bytes())
    entry = {
        "size": 64,
        "sha256": hashlib.sha256((signed / "manifest.sig").read_bytes()).hexdigest(),
    }
    manifest["files"]["manifest.sig"] = entry
    forge_manifest(signed, json.dumps(manifest).encode())
    with pytest.raises(UnsafePathError):
        Bundle.open(signed)


def test_the_manifest_read_is_the_manifest_checked(
    signed: Path, monkeypatch: pytest.MonkeyPatch, figures: Figures
) -> None:
    """The file is exchanged right after its signature was checked."""
    check = PublicKey.has_signed

    def check_and_exchange(self: PublicKey, data: bytes, signature: bytes) -> bool:
        known = check(self, data, signature)
        (signed / "manifest.json").write_bytes(b"[" * 100_000)
        return known

    before = Bundle.open(signed).manifest
    monkeypatch.setattr(PublicKey, "has_signed", check_and_exchange)
    assert read_manifest(signed, MINE.public) == before
    figures.add("signature: manifest exchanged after the check", count=1, found="the signed bytes")
