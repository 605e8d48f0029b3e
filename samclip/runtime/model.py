"""A model: one bundle, ready to run on this device."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from samclip.engines.base import Backend, EngineOptions
from samclip.engines.machine.host import as_memory_error
from samclip.engines.registry import AUTO, Choice, PassedOver, decide
from samclip.errors import CapabilityError, ClosedError, InputError, VocabularyError
from samclip.runtime.backend_choice import check_precision, start_fastest
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.home import find_bundle
from samclip.runtime.bundles.manifest import Manifest
from samclip.runtime.bundles.signature import chosen_public_key
from samclip.runtime.engine_pool import EnginePool
from samclip.runtime.features import Features
from samclip.runtime.pixels.image import Letterbox, load_image, preprocess
from samclip.runtime.scene import Scene, Templates
from samclip.runtime.series import map_in_order
from samclip.runtime.tasks.namers import choose_namer
from samclip.runtime.text.text_space import TextSpace, open_text_space
from samclip.runtime.text.vocabulary import (
    Vocabulary,
    as_names,
    gather_texts,
    mark_seen,
    warn_untrained,
)

_logger = logging.getLogger("samclip")

Image = TypeVar("Image")
Answer = TypeVar("Answer")
Prepared = tuple[NDArray[np.uint8], NDArray[np.float32], Letterbox]


@as_memory_error
def load(
    name_or_path: str | Path | None = None,
    backend: str = "auto",
    *,
    precision: str | None = None,
    threads: int | None = None,
    streams: int = 1,
    device: int = 0,
    cache_dir: str | Path | None = None,
    public_key: str | Path | None = None,
) -> Model:
    """Load a bundle by path or by name, and make its encoder ready; None is "samclip-tiny".

    A name is looked up in the bundle home, then among the bundles that come with the package.
    `backend`: "onnxruntime", "cuda" and so on, "auto" for the fastest that works here and that
    the bundle was made for: one that turns out not to start, or TensorRT without plans of this
    bundle, is logged as a warning, and the next is tried (see `Model.passed_over`); `precision`: of
    the encoder, and of other graphs that have it ("int8" is any INT8); None for the bundle's
    preference on this backend; `threads`: of the CPU for one run of a graph, at most the
    processors, None for a stream's share of the cores; `streams`: how many images `answer_all`
    works on at once, 2 or more for throughput, 1 for the soonest single answer; `device`: index
    of the GPU; `cache_dir`: where text embeddings are kept between runs; `public_key`: a
    file, PEM or OpenSSH's, whose key must have signed the bundle, None for that which
    `$SAMCLIP_PUBLIC_KEY` names, if any. Raises BundleError (SignatureError),
    BackendUnavailableError, PlanError, EngineRunError, InputError.
    """
    check_precision(precision)
    bundle = Bundle.open(find_bundle(name_or_path), chosen_public_key(public_key))
    own, at_once = _checked("threads", threads), _checked("streams", streams) or 1
    options = EngineOptions(threads=own, streams=at_once, device=device)

    def start(choice: Choice) -> Model:
        return Model(bundle, choice, options, precision, cache_dir)

    if backend != AUTO:
        return start(decide(backend))
    return start_fastest(bundle, options, precision, start)


def _checked(what: str, number: int | None) -> int | None:
    """Refuse what is no number of threads; more than there are processors would only fight."""
    if number is None:
        return None
    if not isinstance(number, int) or number < 1:
        raise InputError(f"{what} must be a whole number of at least 1 or None; got {number!r}.")
    return min(number, os.cpu_count() or 1)


class Model:
    """Encodes images into scenes; shared by threads; ends with `close()` or its `with` block."""

    def __init__(
        self,
        bundle: Bundle,
        backend: Backend | Choice,
        options: EngineOptions,
        precision: str | None = None,
        cache_dir: str | Path | None = None,
    ) -> None:
        self.bundle = bundle
        self._streams = options.streams
        self._choice = backend if isinstance(backend, Choice) else Choice(backend)
        self._pool = EnginePool(bundle, self._choice.backend, options, precision)
        self._pool.load("encoder")
        self._namer = choose_namer(bundle.manifest)
        self._cache_dir = None if cache_dir is None else Path(cache_dir)
        self._text: TextSpace | None = None
        self._passes = 0
        self._counting = threading.Lock()
        self._opening_text = threading.Lock()

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self.bundle.manifest

    @property
    def backend(self) -> str:
        """The name of the backend that runs the graphs."""
        return self._pool.backend.name

    @property
    def passed_over(self) -> tuple[PassedOver, ...]:
        """With backend="auto": the faster backends that were not taken, and why not."""
        return self._choice.passed_over

    @property
    def encoder_passes(self) -> int:
        """How often the encoder has run."""
        return self._passes

    def encode(self, image: Any) -> Scene:
        """Run the encoder, once, on an image: a path, bytes, a PIL image, or HWC uint8 RGB.

        Raises ImageError, ClosedError, EngineRunError.
        """
        return self._encode_prepared(self._prepare(image))

    def encode_all(self, images: Iterable[Any]) -> Iterator[Scene]:
        """Encode images in order, one scene at a time.

        One image ahead is taken from `images`, read and resized while the encoder runs. Raises as
        `encode`, at the image's turn.
        """
        with closing(map_in_order(self._prepare, images, 1)) as prepared:
            for _, future in prepared:
                yield self._encode_prepared(future.result())

    def answer_all(self, images: Iterable[Any], ask: Callable[[Scene], Answer]) -> Iterator[Answer]:
        """Encode images and give what `ask` answers of each scene, in order; scenes are closed.

        As many images as `load` was given `streams` are worked on at once, reading and resizing
        included, in threads that call `ask`; two more may wait for their turn or to be taken.
        Raises as `encode`, and what `ask` raises, at the image's turn.
        """
        for _, answer in self.answers(images, ask):
            yield answer.result()

    def answers(
        self, images: Iterable[Image], ask: Callable[[Scene], Answer]
    ) -> Iterator[tuple[Image, Future[Answer]]]:
        """Do as `answer_all`, but give each image with its future, done: one may fail alone."""

        def work(image: Image) -> Answer:
            with self.encode(image) as scene:
                return ask(scene)

        return map_in_order(work, images, self._streams)

    @as_memory_error
    def vocabulary(
        self,
        names: Sequence[str] | Vocabulary,
        templates: Templates = None,
        *,
        synonyms: Mapping[str, Sequence[str]] | None = None,
        seen: Sequence[str] | None = None,
    ) -> Vocabulary:
        """Embed names in the bundle's text space, once for all tasks that take `names`.

        Tasks accept the result in place of the names. `synonyms`: for some of the names, other
        texts that stand for them too, of which the one that fits best counts. `seen`: those of the
        names that the model was trained with; bundles that fuse two opinions, Open-Vocabulary
        SAM's, then trust their classifier with these, and CLIP with the others; None: CLIP with
        all. Other bundles have one opinion, and `seen` changes nothing. Raises VocabularyError,
        ClosedError, and CapabilityError for a bundle that cannot name or has no text; warns with
        UntrainedHeadWarning, on every call, when what names was never trained.
        """
        head, text = self.manifest.head, self.manifest.text
        if head is None or text is None:
            lacking = "CLIP head" if head is None else "text"
            raise CapabilityError(
                f"bundle {self.manifest.name!r} has no {lacking}, so it cannot name anything. "
                "Export it with one, or choose another bundle."
            )
        self._pool.check_process()
        if self._pool.closed:
            raise ClosedError("the model is closed. Load it again with samclip.load().")
        if not head.trained:
            warn_untrained(self.manifest.name)
        if isinstance(names, Vocabulary):
            return _unchanged(names, synonyms, seen)
        checked = as_names(names)
        texts, first_rows = gather_texts(checked, synonyms)
        marked = mark_seen(checked, seen)
        embeddings = self._text_space().embed(texts, templates)
        return Vocabulary(checked, embeddings, text.logit_scale, head.trained, first_rows, marked)

    def close(self) -> None:
        """Wait for calls under way, then free the engines; later calls raise ClosedError.

        Scenes end with their model; results stay valid. Closing again does nothing.
        """
        self._pool.close()

    @as_memory_error
    def _prepare(self, image: Any) -> Prepared:
        pixels = load_image(image)
        if isinstance(image, np.ndarray) and np.may_share_memory(pixels, image):
            pixels = pixels.copy()  # the scene must not change with the caller's array
        pixels.flags.writeable = False
        return pixels, *preprocess(pixels, self.manifest.preprocessing)

    @as_memory_error
    def _encode_prepared(self, prepared: Prepared) -> Scene:
        image, tensor, letterbox = prepared
        features = self._run_encoder(tensor, letterbox)
        return Scene(features, image, self.vocabulary, self._encode_crop, self._namer)

    def _encode_crop(self, crop: NDArray[np.uint8]) -> Features:
        return self._run_encoder(*preprocess(crop, self.manifest.preprocessing))

    def _run_encoder(self, tensor: NDArray[np.float32], letterbox: Letterbox) -> Features:
        encoded = self._pool.run("encoder", {"image": tensor})
        with self._counting:
            self._passes += 1
        return Features(self._pool, letterbox, encoded)

    def _text_space(self) -> TextSpace:
        text = self.manifest.text
        with self._opening_text:
            if self._text is None and text is not None:
                self._text = open_text_space(self._pool, text, self._cache_dir)
            if self._text is None:
                raise CapabilityError(f"bundle {self.manifest.name!r} has no text.")
            return self._text

    def __reduce__(self) -> NoReturn:
        raise InputError(
            "a model cannot be copied, pickled or sent to another process. Send the bundle's name "
            "or path, and call samclip.load() there."
        )

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = ", closed" if self._pool.closed else ""
        return f"Model({self.manifest.name!r}, backend={self.backend!r}{state})"


def _unchanged(
    vocabulary: Vocabulary,
    synonyms: Mapping[str, Sequence[str]] | None,
    seen: Sequence[str] | None,
) -> Vocabulary:
    """Give a vocabulary back; raises VocabularyError for what it can no longer be given."""
    if synonyms is None and seen is None:
        return vocabulary
    given = "synonyms" if seen is None else "seen"
    raise VocabularyError(
        f"{given} came with a vocabulary that is embedded already. Give it with the names, when "
        "the vocabulary is made."
    )
