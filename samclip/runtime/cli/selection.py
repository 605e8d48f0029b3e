"""Which bundle a command uses when none is named."""

from __future__ import annotations

from samclip.errors import BundleNotFoundError
from samclip.runtime.bundles.home import bundle_home, list_bundles


def choose_bundle(given: str | None) -> str:
    """Return `given`, a name or path, or the name of the only bundle that is installed.

    `given` comes from --bundle or SAMCLIP_BUNDLE. Raises BundleNotFoundError when nothing is
    given and there is not exactly one.
    """
    if given:
        return given
    found = list_bundles()
    if len(found) == 1:
        return found[0]
    if found:
        raise BundleNotFoundError(
            f"several bundles are installed: {', '.join(found)}. Name one with --bundle or "
            "SAMCLIP_BUNDLE."
        )
    raise BundleNotFoundError(
        f"no bundle was named and none is installed in {bundle_home()}. Give a folder with "
        "--bundle or SAMCLIP_BUNDLE, copy a bundle there, or make one from a checkpoint with "
        "samclip-export."
    )
