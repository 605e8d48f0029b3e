"""Copies of bundles that differ in their name alone, so in their manifest and identity."""

from __future__ import annotations

from pathlib import Path

import msgspec

from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.writing import write_bundle


def write_renamed(source: Path, target: Path, name: str) -> Path:
    """Write the bundle `source` to `target` under another name."""
    bundle = Bundle.open_unsigned(source)
    files = {file: bundle.path / file for file in bundle.manifest.files}
    return write_bundle(target, msgspec.structs.replace(bundle.manifest, name=name), files)
