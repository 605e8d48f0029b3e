"""Views of answers and scenes: in a notebook, in the system's viewer, as a file.

All of them show the same figure. IPython is used where it runs, and is never imported otherwise.
"""

from __future__ import annotations

import base64
import html
import io
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samclip.errors import CapabilityError
from samclip.json_text import escape_match
from samclip.runtime.results.drawing import save_picture, shorten
from samclip.runtime.results.figure import shrink
from samclip.runtime.results.lettering import UNSAFE

NOTEBOOK_SIDE = 1280  # pixels: longer sides are scaled down, since a notebook keeps what it shows
SHOWN_NAMES = 5  # in a repr
SHOWN_LETTERS = 24  # of such a name


class Viewable(ABC):
    """What can be shown and saved as a picture."""

    @abstractmethod
    def _make_figure(self, **options: Any) -> NDArray[np.uint8]:
        """Return the picture, HWC uint8 RGB; `options` are those of `draw`."""

    def show(self, **options: Any) -> None:
        """Show the picture: in the notebook that runs this, else in the system's image viewer.

        `options` are those of `draw`. Raises CapabilityError on a machine without a display or
        without a viewer.
        """
        picture = self._make_figure(**options)
        if not _show_in_notebook(picture):
            _show_in_viewer(picture)

    def save(self, path: str | os.PathLike[str], **options: Any) -> Path:
        """Write the picture as PNG, JPEG or WebP, by the suffix of `path`; return the path.

        The file is complete or absent. `options` are those of `draw`, whose `legend` is on here.
        Raises ImageError for another suffix, InputError for what is not a path, WriteError.
        """
        return save_picture(self._make_figure(**options), path)

    def _repr_png_(self) -> bytes:
        return _encode(shrink(self._make_figure(), NOTEBOOK_SIDE), "PNG")

    def _repr_html_(self) -> str:
        jpeg = _encode(shrink(self._make_figure(), NOTEBOOK_SIDE), "JPEG")
        text = html.escape(repr(self))
        source = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
        return (
            f'<figure style="margin:0"><img src="{source}" alt="{text}" style="max-width:100%">'
            f"<figcaption><code>{text}</code></figcaption></figure>"
        )


def describe_names(texts: Iterable[str]) -> str:
    """Join names to one line for a repr: the first few of them, shortened and safe to print."""
    names = list(texts)
    shown = [UNSAFE.sub(escape_match, shorten(name, SHOWN_LETTERS)) for name in names[:SHOWN_NAMES]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")


def describe_size(size: tuple[int, int]) -> str:
    """Return (h, w) as `width x height`, the way in which cameras' sizes are written."""
    return f"{size[1]}x{size[0]}"


def _encode(picture: NDArray[np.uint8], kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind, quality=88)
    return file.getvalue()


def _show_in_notebook(picture: NDArray[np.uint8]) -> bool:
    """Show a picture where a kernel of Jupyter runs this code; False elsewhere."""
    ipython: Any = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if getattr(shell, "kernel", None) is None:  # IPython in a terminal shows no pictures
        return False
    ipython.display.display({"image/png": _encode(shrink(picture, NOTEBOOK_SIDE), "PNG")}, raw=True)
    return True


def _show_in_viewer(picture: NDArray[np.uint8]) -> None:
    needs_variable = sys.platform not in {"darwin", "win32"}
    if needs_variable and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise CapabilityError(
            "a picture cannot be shown: this machine has no display, for neither DISPLAY nor "
            "WAYLAND_DISPLAY is set. Write it to a file: .save('picture.png')."
        )
    from PIL import ImageShow  # noqa: PLC0415 - it imports IPython where that is installed

    if not ImageShow.show(Image.fromarray(picture)):
        raise CapabilityError(
            "a picture cannot be shown: Pillow found no image viewer, such as xdg-open or display. "
            "Install one, or write the picture to a file: .save('picture.png')."
        )
