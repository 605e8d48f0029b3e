import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from samclip.export import verification
from samclip.export.cli import app


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def common(mobile_sam_checkpoint: Path, text_checkpoint: Path, tmp_path: Path) -> list[object]:
    return [
        *("--checkpoint", mobile_sam_checkpoint, "--text-checkpoint", text_checkpoint),
        *("--imgsz", 256, "--output", tmp_path / "bundle", "--templates", "none"),
        *("--aspects", "1:1"),  # the default's five shapes take five times as long
    ]


def test_json_is_all_that_stdout_holds(common: list[object], tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\ndog\n", "utf-8")
    rounded = ["--weights-dtype", "fp16", "--weights-dtype", "text_encoder=int8"]
    options = ["--labels", tmp_path / "names.txt", "--photos", _two_photos(common), *rounded]
    result = _run(*common, *options, "--head-pool", 2, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["path"] == str(tmp_path / "bundle")
    assert document["manifest"]["preprocessing"]["image_size"] == 256
    head = {"trained": False, "embed_dim": 48, "grid": 8, "image_confidence": 1.0}
    assert document["manifest"]["clip_head"] == head
    assert document["manifest"]["text"]["labels"] == "labels.json"
    assert document["manifest"]["parity"]
    rows = document["manifest"]["rounding"]
    assert {row["graph"]: row["weights_dtype"] for row in rows} == {
        **dict.fromkeys(("encoder", "clip_head", "mask_decoder"), "fp16"),
        **dict.fromkeys(("image_keys", "point_decoder"), "fp16"),
        "text_encoder": "int8",
    }
    assert (tmp_path / "bundle" / "manifest.json").is_file()


def test_people_get_a_table_a_warning_and_the_next_command(common: list[object]) -> None:
    result = _run(*common, "--no-text-encoder", "--photos", _two_photos(common))
    assert result.exit_code == 0, result.output
    for part in ("Worst errors", "never trained", "samclip everything PHOTO --bundle"):
        assert part in result.stderr
    assert not result.stdout


def _two_photos(common: list[object]) -> Path:
    from samclip.runtime.pixels.image import photo_paths

    folder = Path(str(common[common.index("--output") + 1])).with_name("photos")
    folder.mkdir()
    for photo in photo_paths()[:2]:
        (folder / photo.name).write_bytes(photo.read_bytes())
    return folder


def test_a_failed_gate_exits_non_zero_and_leaves_nothing(
    common: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "TOLERANCE", 1e-9)
    result = _run(*common)
    assert result.exit_code == 1
    assert "differ from the torch model" in result.stderr
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--model-type", "vit_b"], "--model-type vit_t"),
        (["--imgsz", 100], "multiple of 16"),
        (["--attention", "flash"], "'flash'"),
        (["--int8"], "give --calib FOLDER"),
        (["--fp16", "--calib", "nowhere"], "there is no folder nowhere"),
        (["--half", "--keep-fp32", "encodr"], "did you mean 'encoder'?"),
        (["--weights-dtype", "text=int8"], "there is no graph 'text'"),
        (["--templates", "opnai"], "openai"),
        (["--checkpoint", "nowhere.pth"], "no checkpoint at"),
        (["--text-checkpoint", "nowhere.pth"], "no checkpoint at"),
    ],
)
def test_mistakes_are_one_message(
    common: list[object], tmp_path: Path, change: list[object], message: str
) -> None:
    result = _run(*common, *change)
    assert result.exit_code in (1, 2)
    assert message in result.stderr.replace("\n", " ")
    assert "Traceback" not in result.output
    assert not (tmp_path / "bundle").exists()


def test_a_file_of_templates_holds_no_names(common: list[object], tmp_path: Path) -> None:
    empty, plain = tmp_path / "empty.txt", tmp_path / "plain.txt"
    empty.write_text("\n")
    plain.write_text("{}\n")
    assert "holds no template" in _run(*common, "--templates", empty).stderr.replace("\n", " ")
    result = _run(*common, "--templates", plain, "--checkpoint", "nowhere.pth")
    assert "no checkpoint at" in result.stderr
    assert "look like a list" not in result.stderr  # "{}" is a template, and no part of JSON


@pytest.mark.parametrize("arguments", [["--precision", "fp12"], ["--opset", "12"], []])
def test_usage_errors(common: list[object], arguments: list[object]) -> None:
    result = _run(*(common if arguments else []), *arguments)
    assert result.exit_code == 2


def test_without_torch_it_says_what_to_install(
    common: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    result = _run(*common)
    assert result.exit_code == 1
    assert "needs torch" in result.stderr
    assert "samclip[export]" in result.stderr


def test_help_teaches() -> None:
    text = _run("--help").output
    for flag in ("--checkpoint", "--clip-checkpoint", "--imgsz", "--no-verify", "--fp16", "--int8"):
        assert flag in text
    assert "mobile_sam" in text
