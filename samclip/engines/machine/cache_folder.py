"""Where caches live on this machine."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_DIR_VARIABLE = "SAMCLIP_CACHE_DIR"


def cache_dir(directory: str | Path | None = None) -> Path:
    """Choose where caches live: `directory`, else $SAMCLIP_CACHE_DIR, else the user's cache."""
    import platformdirs  # noqa: PLC0415 - only needed here

    named = directory or os.environ.get(CACHE_DIR_VARIABLE)
    if not named:
        return Path(platformdirs.user_cache_dir("samclip"))
    return Path(os.path.expanduser(named))  # noqa: PTH111 - unlike pathlib's, it never raises
