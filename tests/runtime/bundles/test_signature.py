"""Signed bundles: keys of either form, signatures that other tools agree with, and the command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_bundle import write_tiny_bundle
from typer.testing import CliRunner

import samclip
from samclip.benchmarks.cli.main import app as bench_app
from samclip.cli.main import app
from samclip.errors import CapabilityError, InputError, SignatureError, WriteError
from samclip.runtime.bundles import signature as keys
from samclip.runtime.bundles.bundle import Bundle, sign_bundle
from samclip.runtime.bundles.manifest import SIGNATURE_NAME
from samclip.runtime.bundles.signature import read_private_key, read_public_key

pytest.importorskip("cryptography")

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa, x25519

PEM, OPENSSH = serialization.Encoding.PEM, serialization.Encoding.OpenSSH
PKCS8, OWN = serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.OpenSSH
PLAIN = serialization.NoEncryption()
SPKI, LINE = serialization.PublicFormat.SubjectPublicKeyInfo, serialization.PublicFormat.OpenSSH


@pytest.fixture(autouse=True)
def no_key_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(keys.PUBLIC_KEY_VARIABLE, raising=False)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "bundle")


def write_pair(
    folder: Path, form: str = "pem", passphrase: bytes | None = None
) -> tuple[Path, Path]:
    """A new private key and its public half, in one of the two forms."""
    key = ed25519.Ed25519PrivateKey.generate()
    locked = serialization.BestAvailableEncryption(passphrase) if passphrase else PLAIN
    private, public = folder / f"{form}.key", folder / f"{form}.pub"
    private.write_bytes(key.private_bytes(PEM, PKCS8 if form == "pem" else OWN, locked))
    private.chmod(0o600)
    parts = (PEM, SPKI) if form == "pem" else (OPENSSH, LINE)
    public.write_bytes(key.public_key().public_bytes(*parts))
    return private, public


@pytest.mark.parametrize("form", ["pem", "openssh"])
def test_a_signed_bundle_loads_with_its_key_and_without_any(
    tiny: Path, tmp_path: Path, form: str
) -> None:
    private, public = write_pair(tmp_path, form)
    assert sign_bundle(tiny, read_private_key(private)) == tiny
    assert (tiny / SIGNATURE_NAME).stat().st_size == 64
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["bundle", private.name, public.name]
    )
    with samclip.load(tiny, "onnxruntime", public_key=public) as model:
        model.bundle.verify()
    samclip.load(tiny, "onnxruntime").close()


def test_the_environment_names_the_key(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, public = write_pair(tmp_path)
    monkeypatch.setenv("SAMCLIP_PUBLIC_KEY", str(public))
    with pytest.raises(SignatureError, match="is not signed"):
        samclip.load(tiny, "onnxruntime")
    sign_bundle(tiny, read_private_key(private))
    samclip.load(tiny, "onnxruntime").close()
    _, other = write_pair(tmp_path, "openssh")
    with pytest.raises(SignatureError, match="another key signed it"):
        samclip.load(tiny, "onnxruntime", public_key=other)
    for empty in ("", " "):
        monkeypatch.setenv("SAMCLIP_PUBLIC_KEY", empty)
        with pytest.raises(InputError, match=r"set and empty.*unset it"):
            samclip.load(tiny, "onnxruntime")
    monkeypatch.delenv("SAMCLIP_PUBLIC_KEY")
    samclip.load(tiny, "onnxruntime").close()


COMMANDS = {
    "info": "samclip info {bundle}",
    "classify": "samclip classify {photo} -b {bundle} --names a,b",
    "segment": "samclip segment {photo} -b {bundle} --point 9,9",
    "semantic": "samclip semantic {photo} -b {bundle} --names a,b",
    "everything": "samclip everything {photo} -b {bundle}",
    "demo": "samclip demo -b {bundle}",
    "engine build": "samclip engine build {bundle} --backend tensorrt-rtx --target sm86",
    "latency": "samclip-bench latency {bundle}",
    "memory": "samclip-bench memory {bundle}",
    "amortised": "samclip-bench amortised -b {bundle}",
    "agreement": "samclip-bench agreement {bundle} {bundle} {photos}",
    "roofline": "samclip-bench roofline {bundle}",
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("value", ["foreign", "empty"])
def test_every_command_asks_for_the_key_of_the_environment(
    command: str,
    value: str,
    tiny: Path,
    tmp_path: Path,
    photo_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    _, public = write_pair(tmp_path)
    monkeypatch.setenv("SAMCLIP_PUBLIC_KEY", str(public) if value == "foreign" else "")
    program, *arguments = command.format(
        bundle=tiny, photo=photo_path, photos=photo_path.parent
    ).split()
    before = sorted(tmp_path.rglob("*"))
    result = CliRunner().invoke(app if program == "samclip" else bench_app, arguments)
    said = " ".join((result.stdout + result.stderr).split())
    assert ("is not signed" if value == "foreign" else "is set and empty") in said
    assert (result.exit_code == 0) is False
    assert sorted(tmp_path.rglob("*")) == before


def test_doctor_reports_bundles_that_the_key_refuses(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The packaged bundle as well: no bundle is exempt."""
    _, public = write_pair(tmp_path)
    for value, said in ((str(public), "is not signed"), ("", "is set and empty")):
        monkeypatch.setenv("SAMCLIP_PUBLIC_KEY", value)
        code, out, _ = run("doctor", "--json")
        report = json.loads(out)
        assert code == 0
        assert said in report["default_bundle"]["remedy"]
        assert all(said in bundle["error"] for bundle in report["bundles"])


def test_a_private_key_that_others_can_read_is_refused(tiny: Path, tmp_path: Path) -> None:
    private, _ = write_pair(tmp_path)
    for mode in (0o640, 0o604, 0o644):
        private.chmod(mode)
        with pytest.raises(InputError, match=f"permissions {mode:04o}.*chmod 600"):
            read_private_key(private)
    private.chmod(0o400)
    read_private_key(private)


def test_signing_writes_into_the_bundle_alone(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle may be a disk of its own: nothing is renamed into it from elsewhere."""
    private, public = write_pair(tmp_path)
    renamed: list[tuple[Path, Path]] = []
    original = Path.replace

    def replace(source: Path, target: Path) -> Path:
        renamed.append((source.parent, target.parent))
        return original(source, target)

    monkeypatch.setattr(Path, "replace", replace)
    abandoned = tiny / f".manifest.sig.{'0' * 16}.partial"
    abandoned.write_bytes(b"half")
    Bundle.open(tiny)  # which another process may do meanwhile
    sign_bundle(tiny, read_private_key(private))
    assert renamed == [(tiny, tiny)]
    assert not abandoned.exists()
    Bundle.open(tiny, read_public_key(public))


def test_signing_again_replaces_the_signature(tiny: Path, tmp_path: Path) -> None:
    for form in ("pem", "openssh"):
        private, public = write_pair(tmp_path, form)
        sign_bundle(tiny, read_private_key(private))
        Bundle.open(tiny, read_public_key(public))


def test_a_new_export_over_a_signed_bundle_is_not_signed(tiny: Path, tmp_path: Path) -> None:
    private, public = write_pair(tmp_path)
    sign_bundle(tiny, read_private_key(private))
    write_tiny_bundle(tiny, overwrite=True)
    with pytest.raises(SignatureError, match="is not signed"):
        Bundle.open(tiny, read_public_key(public))


def test_what_is_damaged_is_not_signed(tiny: Path, tmp_path: Path) -> None:
    private, _ = write_pair(tmp_path)
    (tiny / "encoder.onnx").write_bytes(b"x" * (tiny / "encoder.onnx").stat().st_size)
    with pytest.raises(samclip.IntegrityError):
        sign_bundle(tiny, read_private_key(private))
    assert not (tiny / SIGNATURE_NAME).exists()


def test_a_place_that_takes_no_signature(tiny: Path, tmp_path: Path) -> None:
    private, _ = write_pair(tmp_path)
    inner = tmp_path / "inner"
    shutil.copytree(tiny, inner)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(WriteError, match="No space left"):
            sign_bundle(inner, read_private_key(private))
    assert sorted(path.name for path in inner.iterdir()) == sorted(p.name for p in tiny.iterdir())
    Bundle.open(inner)


def test_openssl_agrees(tiny: Path, tmp_path: Path) -> None:
    """The file is the bare signature over the manifest's bytes."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    private, public = write_pair(tmp_path)
    sign_bundle(tiny, read_private_key(private))
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", str(public), "-rawin"]
    command += ["-in", str(tiny / "manifest.json"), "-sigfile", str(tiny / SIGNATURE_NAME)]
    subprocess.run(command, check=True, capture_output=True)


def test_keys_of_ssh_keygen_and_their_fingerprint(tmp_path: Path) -> None:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("no ssh-keygen here")
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    shown = subprocess.run(
        ["ssh-keygen", "-l", "-f", str(key)], capture_output=True, text=True, check=True
    ).stdout
    public = read_public_key(tmp_path / "key.pub")
    assert public.fingerprint == shown.split()[1]
    assert read_private_key(key).public.fingerprint == public.fingerprint


@pytest.mark.parametrize("form", ["pem", "openssh"])
def test_passphrases(tmp_path: Path, form: str) -> None:
    if form == "openssh":
        pytest.importorskip("bcrypt")
    private, _ = write_pair(tmp_path, form, b"open sesame")
    read_private_key(private, lambda: "open sesame")
    with pytest.raises(InputError, match="with the right passphrase"):
        read_private_key(private, lambda: "wrong")
    with pytest.raises(InputError, match="no terminal to ask for it"):
        read_private_key(private)


OTHERS: dict[str, Callable[[], object]] = {
    "RSA": lambda: rsa.generate_private_key(65537, 2048),
    "elliptic curve": lambda: ec.generate_private_key(ec.SECP256R1()),
    "Ed448": ed448.Ed448PrivateKey.generate,
    "X25519": x25519.X25519PrivateKey.generate,
}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_keys_of_other_kinds(make: Callable[[], object], tmp_path: Path) -> None:
    key = make()
    private, public = tmp_path / "key", tmp_path / "key.pub"
    private.write_bytes(key.private_bytes(PEM, PKCS8, PLAIN))  # type: ignore[attr-defined]
    private.chmod(0o600)
    public.write_bytes(key.public_key().public_bytes(PEM, SPKI))  # type: ignore[attr-defined]
    for read, path in ((read_private_key, private), (read_public_key, public)):
        with pytest.raises(InputError, match="bundles take Ed25519"):
            read(path)


NO_KEYS: dict[str, bytes | None] = {
    "missing": None,
    "empty": b"",
    "text": b"hello",
    "zeros": bytes(200),
    "too large": b"-----BEGIN PUBLIC KEY-----\n" + b"A" * 100_000,
    "cut PEM": b"-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----\n",
    "cut line": b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5\n",
    "unknown kind of line": b"ssh-nothing AAAA\n",
    "certificate": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    "cut private": b"-----BEGIN PRIVATE KEY-----\nMC4C\n-----END PRIVATE KEY-----\n",
    "cut OpenSSH": keys.OPENSSH_PRIVATE + b"\nb3BlbnNza\n-----END OPENSSH PRIVATE KEY-----\n",
}


@pytest.mark.parametrize("data", NO_KEYS.values(), ids=NO_KEYS)
def test_files_that_are_no_keys(data: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "key"
    if data is not None:
        path.write_bytes(data)
    for read in (read_private_key, read_public_key):
        with pytest.raises(InputError, match="key") as caught:
            read(path)
        assert type(caught.value) is InputError
        assert str(path) in str(caught.value)


def test_halves_that_are_mixed_up(tmp_path: Path) -> None:
    private, public = write_pair(tmp_path, "openssh")
    with pytest.raises(InputError, match=r"is a private key.*ssh-keygen -y"):
        read_public_key(private)
    with pytest.raises(InputError, match="is not a private key"):
        read_private_key(public)


def test_without_the_package(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, public = write_pair(tmp_path)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    for name in [name for name in sys.modules if name.startswith("cryptography.")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(CapabilityError, match=r"pip install 'samclip\[signing\]'"):
        samclip.load(tiny, "onnxruntime", public_key=public)
    samclip.load(tiny, "onnxruntime").close()


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_the_commands(tiny: Path, tmp_path: Path) -> None:
    private, public = write_pair(tmp_path, "openssh")
    fingerprint = read_public_key(public).fingerprint
    code, _, stderr = run("info", tiny, "--public-key", public)
    assert (code, "is not signed" in stderr) == (1, True)
    code, out, _ = run("sign", tiny, "--key", private)
    assert (code, fingerprint in out.replace("\n", "")) == (0, True)
    code, _, stderr = run("info", tiny, "--public-key", public)
    assert (code, f"signed with the key {fingerprint}" in stderr) == (0, True)
    assert "by whom was not checked" in run("info", tiny)[2]
    record = json.loads(run("info", tiny, "--json", "--public-key", public)[1])
    assert (record["signed"], record["signer"]) == (True, fingerprint)
    assert json.loads(run("sign", tiny, "--key", private, "--json")[1])["signer"] == fingerprint
    code, _, stderr = run("sign", tiny, "--key", public)
    assert (code, "is not a private key" in stderr) == (2, True)


def test_a_key_that_is_kept_nowhere_signs_and_its_line_is_enough_to_check() -> None:
    pair = keys.make_private_key()
    assert pair.public.line.split()[0] == "ssh-ed25519"
    assert len(pair.public.line.split()) == 2  # without a comment
    found = keys.parse_public_key(pair.public.line, Path("some.json"))
    assert found.has_signed(b"data", pair.sign(b"data"))
    assert not found.has_signed(b"date", pair.sign(b"data"))
    assert keys.make_private_key().public.line != pair.public.line
    with pytest.raises(InputError, match=r"some\.json cannot be read as an Ed25519 key"):
        keys.parse_public_key("ssh-ed25519 AAAA", Path("some.json"))
