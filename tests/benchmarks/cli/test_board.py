"""`samclip-bench board`: the file that it writes, and its check; the model is a fake."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from samclip.benchmarks.board import measure as measuring
from samclip.benchmarks.board.signing import read_record
from samclip.benchmarks.latency import energy
from samclip.benchmarks.latency.contenders import Variant
from samclip.benchmarks.measurements import Timing
from samclip.errors import InputError, SignatureError
from samclip.runtime.bundles import signature as keys

pytest.importorskip("cryptography")

from cryptography.hazmat.primitives import serialization as forms

Bench = Callable[..., Any]
QUICK = ("--repeats", "2", "--warm-up", "0", "--no-memory")


@pytest.fixture
def model(opened: list[Variant], monkeypatch: pytest.MonkeyPatch) -> list[Variant]:
    """Open a fake in place of a bundle, measured quickly; lists what was asked for."""
    copy = Timing(model="fake", kind="stage", name=measuring.COPY_IN, samples=(0.002, 0.004))
    monkeypatch.setattr(measuring, "measure_transfers", lambda *_: [copy])
    monkeypatch.setattr(measuring, "LOOP", 2)
    monkeypatch.setattr(energy, "SECONDS", 0.01)
    return opened


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A private key, and its public half next to it, whose comment names a person."""
    pair = keys.make_private_key()
    file = tmp_path / "my-key"
    private = pair.key.private_bytes(
        forms.Encoding.PEM, forms.PrivateFormat.OpenSSH, forms.NoEncryption()
    )
    file.write_bytes(private)
    file.chmod(0o600)
    file.with_suffix(".pub").write_text(f"{pair.public.line} mallory-q@robo-lab-7\n")
    return file


def test_a_record_is_measured_signed_and_checked(
    bench: Bench, model: list[Variant], key: Path, tmp_path: Path
) -> None:
    file = tmp_path / "record.json"
    bundle = tmp_path / "some" / "bundle"
    made = bench(*("board", bundle, *QUICK, "--threads", "2", "--output", file, "--key", key))
    assert made.exit_code == 0, made.stderr
    assert model == [Variant(str(bundle), threads=2)]
    text = file.read_text()
    assert "robo-lab-7" not in text  # the comment of a public key
    assert str(tmp_path) not in text
    record = read_record(file, keys.read_public_key(key.with_suffix(".pub")))
    assert record.command == (
        "samclip-bench board BUNDLE --backend auto --threads 2 --repeats 2 --warm-up 0 "
        "--no-memory --key KEY"
    )
    assert (record.bundle.name, record.bundle.path) == ("fake", None)
    assert (record.signature.key, record.settings.repeats) == ("own", 2)
    h2d = {stage.stage: stage.ms for stage in record.stages}["h2d"]
    assert h2d is not None
    assert (h2d.n, h2d.median, h2d.max) == (2, 3.0, 4.0)

    checked = bench("board", "--check", file, "--public-key", key.with_suffix(".pub"))
    assert checked.exit_code == 0, checked.stderr
    assert checked.stdout == made.stdout
    for words in ("decode_prompts", "h2d", "3.00", record.signature.fingerprint, "noise, drift"):
        assert words in checked.stdout


def test_without_a_key_the_file_says_that_it_shows_integrity_alone(
    bench: Bench, model: list[Variant], key: Path, tmp_path: Path
) -> None:
    file = tmp_path / "record.json"
    made = bench("board", *QUICK, "--output", file)
    assert made.exit_code == 0, made.stderr
    signature = json.loads(file.read_text())["signature"]
    assert signature["key"] == "once"
    assert "not whose it is" in signature["note"]
    assert "and not whose it is" in " ".join(made.stdout.split())
    other = bench("board", "--check", file, "--public-key", key.with_suffix(".pub"))
    assert other.exit_code == 1
    assert "and not with" in other.stderr


def test_what_was_changed_or_is_no_record_is_refused(
    bench: Bench, model: list[Variant], tmp_path: Path
) -> None:
    file, changed = tmp_path / "record.json", tmp_path / "changed.json"
    assert bench("board", *QUICK, "--output", file).exit_code == 0
    document = json.loads(file.read_text())

    changed.write_text(json.dumps(document, indent=7, sort_keys=True))  # laid out otherwise
    assert read_record(changed) == read_record(file)

    def change(**fields: Any) -> None:
        changed.write_text(json.dumps({**document, **fields}))

    signature = document["signature"]
    forged = keys.make_private_key().public
    for fields in (
        {"seconds": document["seconds"] + 1},
        {"throttled": ["nothing"]},
        {"watts": 1.0},
        {"signature": {**signature, "key": "own"}},
        {"signature": {**signature, "value": "AAAA"}},
        {"signature": {**signature, "value": "not base64"}},
        {"signature": {**signature, "fingerprint": forged.fingerprint}},
        {"signature": {**signature, "public_key": forged.line}},
    ):
        change(**fields)
        with pytest.raises(SignatureError):
            read_record(changed)
    for fields in (
        {"host": "robo-lab-7"},
        {"schema_version": 2},
        {"stages": [{"stage": "made up", "ms": None}]},
        {"signature": {**signature, "public_key": "ssh-ed25519 AAAA"}},
        {"signature": None},
    ):
        change(**fields)
        with pytest.raises(InputError, match=r"not a record of a board|cannot be read as"):
            read_record(changed)
    for text in ("", "[]", '{"a": NaN}', '{"a": 1, "a": 2}', "[" * 100_000):
        changed.write_text(text)
        with pytest.raises(InputError):
            read_record(changed)
    result = bench("board", "--check", changed)
    assert result.exit_code == 2
    assert "not a record of a board" in result.stderr


def test_odd_options_are_refused_before_anything_is_measured(
    bench: Bench, model: list[Variant], key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = bench("board", "a-bundle", "--check", tmp_path / "x.json")
    assert (both.exit_code, "takes no bundle" in both.stderr) == (2, True)
    alone = bench("board", "--public-key", key)
    assert (alone.exit_code, "--check FILE" in alone.stderr) == (2, True)
    foreign = tmp_path / "notes.txt"
    foreign.write_text("my notes")
    assert bench("board", *QUICK, "--output", foreign).exit_code == 2
    assert foreign.read_text() == "my notes"
    assert bench("board", *QUICK, "--key", foreign, "-o", tmp_path / "a.json").exit_code == 2

    def missing(module: str) -> Any:
        raise ImportError(module)

    monkeypatch.setattr("samclip.runtime.bundles.signature.importlib.import_module", missing)
    result = bench("board", *QUICK, "--output", tmp_path / "a.json")
    assert result.exit_code == 1
    assert "samclip[signing]" in result.stderr
    assert model == []


@pytest.mark.slow
def test_the_shipped_bundle_on_this_machine(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    options = ("--repeats", "2", "--warm-up", "0", "--backend", "onnxruntime")
    made = bench("board", *options, "--output", file)
    assert made.exit_code == 0, made.stderr
    record = read_record(file)
    assert [use.stage for use in record.memory][:2] == ["import samclip", "load: encoder ready"]
    assert record.library_version
    assert record.bundle.manifest_sha256
