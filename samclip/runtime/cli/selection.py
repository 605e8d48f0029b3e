"""Which bundle a command uses when none is named."""

from __future__ import annotations

from pathlib import Path

from samclip.errors import BundleNotFoundError

MANIFEST = "manifest.json"


def installed_bundles(home: Path) -> list[Path]:
    """List the folders directly inside `home` that hold a manifest, in name order."""
    if not home.is_dir():
        return []
    return sorted(path.parent for path in home.glob(f"*/{MANIFEST}") if path.is_file())


def choose_bundle(given: str | None, home: Path) -> str:
    """Return `given`, or the only bundle installed in `home`.

    `given` comes from --bundle or SAMCLIP_BUNDLE. Raises BundleNotFoundError when nothing is
    given and there is not exactly one.
    """
    if given:
        return given
    found = installed_bundles(home)
    if len(found) == 1:
        return str(found[0])
    if found:
        names = ", ".join(path.name for path in found)
        raise BundleNotFoundError(
            f"several bundles are installed: {names}. Name one with --bundle or SAMCLIP_BUNDLE."
        )
    raise BundleNotFoundError(
        f"no bundle was named and none is installed in {home}. Give a folder with --bundle or "
        "SAMCLIP_BUNDLE, copy a bundle there, or make one from a checkpoint with samclip-export."
    )
