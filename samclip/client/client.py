"""The client: a model behind a server, with the methods of a model."""

from __future__ import annotations

import inspect
import io
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image as PillowImage

from samclip.client.remote_scene import RemoteNames, RemoteScene, RemoteVocabulary, SentPhoto
from samclip.client.transport import Transport
from samclip.errors import CapabilityError, ImageError, InputError, did_you_mean
from samclip.runtime.photo import Photo
from samclip.runtime.pixels.decode import MAX_IMAGE_BYTES
from samclip.runtime.pixels.image import check_colour, from_bgr, load_image
from samclip.runtime.pixels.prompts import Arrays
from samclip.runtime.results.masks import Masks
from samclip.runtime.scene import Templates
from samclip.runtime.series import map_in_order

AT_ONCE = 2  # images that `answer_all` sends at the same time
Image = TypeVar("Image")
Answer = TypeVar("Answer")


class Client:
    """A model that a server serves; its methods are those of `Model`, and so are its answers.

    `address`: the server's, as "http://127.0.0.1:8000"; `token`: its bearer token, None for
    $SAMCLIP_TOKEN, if that is set; `timeout`: seconds without a byte from the server before
    ServerError; `retries`: how often a question is asked again, after the time that the server
    says, while it is busy; `verify`: False to accept any certificate of TLS, or the path of the
    authority's. Needs httpx: pip install 'samclip[client]'.

    Errors about what was sent are those of `Model`. Raises ServerError, ServerBusyError,
    InputError, CapabilityError without httpx, ClosedError.

    Examples:
        >>> with samclip.Client("http://127.0.0.1:8000") as client:  # doctest: +SKIP
        ...     with client.encode(photo) as remote:
        ...         remote.classify(["a cup of coffee", "a cat"]).best
        'a cup of coffee'
    """

    def __init__(
        self,
        address: str = "http://127.0.0.1:8000",
        *,
        token: str | None = None,
        timeout: float = 120.0,
        retries: int = 3,
        verify: bool | str = True,
        http: Any = None,
    ) -> None:
        if token is None:
            token = os.environ.get("SAMCLIP_TOKEN")
        try:
            self._transport = Transport(address, token, timeout, retries, verify, http)
        except ImportError as error:
            raise CapabilityError(
                "a client needs the package httpx. Install it: pip install 'samclip[client]'."
            ) from error

    @property
    def address(self) -> str:
        """The server's address."""
        return self._transport.address

    def describe(self) -> dict[str, Any]:
        """Return what the server says of its model and limits: /v1/models."""
        return self._transport.get("/v1/models")

    def __call__(
        self,
        image: Any,
        names: RemoteNames | None = None,
        *,
        points: Arrays | None = None,
        labels: Arrays | None = None,
        boxes: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        color: str = "rgb",
        **options: Any,
    ) -> Masks:
        """Answer one image in one call, see `Model.__call__`; each call encodes the image."""
        prompts = {"points": points, "labels": labels, "boxes": boxes, "mask": mask}
        given: dict[str, Any] = {k: value for k, value in prompts.items() if value is not None}
        if given:
            known = {*inspect.signature(RemoteScene.segment).parameters} - {"self", "names"}
            if unknown := sorted(set(options) - known):
                raise InputError(
                    f"there is no option {unknown[0]!r}{did_you_mean(unknown[0], known)} of "
                    f"segment. Choose among {', '.join(sorted(known))}."
                )
        with self.encode(image, color=color) as scene:
            if given:
                return scene.segment(**given, names=names, **options)
            return scene.everything(names, **options)

    def encode(self, image: Any, *, color: str = "rgb") -> RemoteScene:
        """Send an image and have it encoded once: a path, a file's bytes, a PIL image or an array.

        Files are sent as they are; arrays and PIL images as PNG, without loss. See `Model.encode`.

        Examples:
            >>> client.encode(photo).size  # doctest: +SKIP
            (400, 600)
        """
        data, pixels = _as_file(image, check_colour(color))
        scene = self._transport.post("/v1/scenes", {}, data)
        size = (int(scene["size"][0]), int(scene["size"][1]))
        photo: Photo = SentPhoto(data, size) if pixels is None else pixels
        return RemoteScene(self._transport, scene, photo)

    def encode_all(self, images: Iterable[Any], *, color: str = "rgb") -> Iterator[RemoteScene]:
        """Encode images in order; the next one is sent while the caller asks about the last.

        Examples:
            >>> for remote in client.encode_all([photo]):  # doctest: +SKIP
            ...     remote.close()
        """
        with closing(map_in_order(partial(self.encode, color=color), images, 1)) as encoded:
            for _, future in encoded:
                yield future.result()

    def answer_all(
        self, images: Iterable[Any], ask: Callable[[RemoteScene], Answer], *, color: str = "rgb"
    ) -> Iterator[Answer]:
        """Yield `ask(scene)` of each image in order, two at once, see `Model.answer_all`."""
        with closing(self._answer_in_order(images, ask, color)) as answered:
            for _, future in answered:
                yield future.result()

    def answers(
        self, images: Iterable[Image], ask: Callable[[RemoteScene], Answer], *, color: str = "rgb"
    ) -> Iterator[tuple[Image, Future[Answer]]]:
        """Yield each image with its answer or its error, see `Model.answers`."""
        return self._answer_in_order(images, ask, color)

    def _answer_in_order(
        self, images: Iterable[Image], ask: Callable[[RemoteScene], Answer], color: str
    ) -> Generator[tuple[Image, Future[Answer]], None, None]:
        check_colour(color)

        def work(image: Image) -> Answer:
            with self.encode(image, color=color) as scene:
                return ask(scene)

        return map_in_order(work, images, AT_ONCE)

    def vocabulary(
        self,
        names: Sequence[str],
        templates: Templates = None,
        *,
        synonyms: Mapping[str, Sequence[str]] | None = None,
        seen: Sequence[str] | None = None,
    ) -> RemoteVocabulary:
        """Return names with their settings, for tasks in place of names, see `Model.vocabulary`.

        The server embeds them when they are first asked about, and refuses wrong ones then.
        """
        marked = None if seen is None else tuple(seen)
        return RemoteVocabulary(tuple(names), templates, synonyms, marked)

    def close(self) -> None:
        """Close the connections; scenes stay on the server until it forgets them."""
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.address!r})"


def _as_file(image: Any, is_bgr: bool) -> tuple[bytes, np.ndarray[Any, np.dtype[np.uint8]] | None]:
    """Return an image as the bytes of a file, and its pixels if they are at hand.

    Raises ImageError.
    """
    if isinstance(image, (bytes, bytearray)):
        return bytes(image), None
    if isinstance(image, (str, os.PathLike)):
        return _read(Path(image)), None
    pixels = load_image(from_bgr(image) if is_bgr else image)  # type: ignore[arg-type]
    buffer = io.BytesIO()
    PillowImage.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue(), pixels.copy()


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise ImageError(f"{path} is not a file. Give the path of an image.")
        if path.stat().st_size > MAX_IMAGE_BYTES:
            raise ImageError(f"{path} is larger than {MAX_IMAGE_BYTES:,} bytes.")
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}.") from error
