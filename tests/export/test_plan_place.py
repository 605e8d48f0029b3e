"""Places for a bundle: what cannot be written is refused before the checkpoint is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from samclip.errors import ExportError
from samclip.export.options import ExportOptions
from samclip.export.plan import plan_export


def options(output: Path, checkpoint: Path = Path("missing.pth")) -> ExportOptions:
    return ExportOptions(checkpoint=checkpoint, output=output)


@pytest.mark.parametrize("place", ["/proc/bundle", "/dev/null/bundle", "file/bundle", "full"])
def test_what_cannot_be_written_is_refused_first(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "photo.jpg").write_bytes(b"")
    with pytest.raises(ExportError, match=r"could not be written|exists already"):
        plan_export(options(tmp_path / place))
    assert (tmp_path / "full" / "photo.jpg").exists()


def test_a_disk_without_room_for_the_weights_is_refused_first(tmp_path: Path) -> None:
    with (tmp_path / "large.pth").open("wb") as file:
        file.truncate(2**42)
    with pytest.raises(ExportError, match="bytes are needed"):
        plan_export(options(tmp_path / "bundle", tmp_path / "large.pth"))
    assert not (tmp_path / "bundle").exists()
