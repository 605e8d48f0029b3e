"""The model: one bundle, ready to run on this device."""

from __future__ import annotations

import operator
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from samclip.engines.base import Backend, EngineOptions
from samclip.engines.machine.host import as_memory_error
from samclip.engines.registry import AUTO, Choice, PassedOver, decide, get_backend
from samclip.errors import CapabilityError, InputError, VocabularyError
from samclip.runtime.backend_choice import (
    check_device,
    check_precision,
    parse_device,
    start_fastest,
)
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.home import find_bundle
from samclip.runtime.bundles.manifest import Manifest
from samclip.runtime.bundles.signature import chosen_public_key
from samclip.runtime.engine_pool import EnginePool
from samclip.runtime.features import Features
from samclip.runtime.pixels.image import Letterbox, load_image, preprocess
from samclip.runtime.scene import Namer, Scene, Templates
from samclip.runtime.series import map_in_order
from samclip.runtime.tasks.region_naming import RegionNamer
from samclip.runtime.tasks.token_naming import TokenNamer
from samclip.runtime.text.text_space import TextSpace, open_text_space
from samclip.runtime.text.vocabulary import (
    Vocabulary,
    as_names,
    gather_texts,
    mark_seen,
    warn_untrained,
)

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
    device: int | str = 0,
    cache_dir: str | Path | None = None,
    public_key: str | Path | None = None,
) -> Model:
    """Load a bundle and make its encoder ready.

    `name_or_path`: a directory, or the name of a bundle in the bundle home or among the bundles
    that come with the package; None means "samclip-tiny".
    `backend`: "onnxruntime", "cuda" and so on, or "auto" for the fastest one that works here and
    that the bundle was made for. A backend that does not start after all, or TensorRT without
    plans of this bundle, is logged as a warning and the next one is tried, see
    `Model.passed_over`.
    `precision`: that of the encoder, and of the other graphs that have it; "int8" means either
    kind of INT8, None the bundle's preference on this backend.
    `threads`: CPU threads for one run of a graph, at most the number of processors; None means a
    stream's share of the cores.
    `streams`: the number of images that `answer_all` works on at the same time, at most the number
    of processors. 2 or more give throughput, 1 gives the shortest time for a single image.
    `device`: the GPU's index, or "cuda:0" and so on, or "cpu". An index above 0 and "cuda" need a
    backend for GPUs, "cpu" one for CPUs; with "auto" only such backends are tried.
    `cache_dir`: the folder in which text embeddings are kept between runs; None means the user's
    cache.
    `public_key`: a key file, PEM or OpenSSH's, whose key must have signed the bundle; None means
    the file that `$SAMCLIP_PUBLIC_KEY` names, if it is set.

    Raises BundleError (BundleNotFoundError, SignatureError), BackendUnavailableError, PlanError,
    EngineRunError, InputError.
    """
    check_precision(precision)
    wish = parse_device(device)
    options = EngineOptions(
        threads=_check_count("threads", threads),
        streams=_check_count("streams", streams) or 1,
        device=wish.index,
    )
    bundle = Bundle.open(find_bundle(name_or_path), chosen_public_key(public_key))
    check_precision(precision, bundle)
    named = None if isinstance(backend, str) and backend == AUTO else get_backend(backend)
    if named is not None:
        check_device(named, wish)

    def start(choice: Choice) -> Model:
        return Model(bundle, choice, options, precision, cache_dir)

    if named is not None:
        return start(decide(named.name))
    return start_fastest(bundle, options, precision, start, wish)


def _check_count(what: str, number: int | None) -> int | None:
    """Check a number of threads or streams, and cap it at the number of processors."""
    if number is None:
        return None
    try:
        count = 0 if isinstance(number, bool) else operator.index(number)
    except TypeError:
        count = 0
    if count < 1:
        raise InputError(
            f"{what} must be a whole number of at least 1 or None; got {number!r:.100}."
        )
    return min(count, os.cpu_count() or 1)


class Model:
    """One bundle, ready to run; made by `load`.

    `encode` turns an image into a `Scene`, which answers every task. Any method may be called from
    several threads at once. A model ends with `close()` or at the end of its `with` block; after
    that its methods, and those of its scenes, raise ClosedError.
    """

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
        manifest = bundle.manifest
        has_regions = manifest.clip_head is None and manifest.region_head is not None
        self._namer: Namer = RegionNamer() if has_regions else TokenNamer()
        self._cache_dir = None if cache_dir is None else Path(cache_dir)
        self._text: TextSpace | None = None
        self._passes = 0
        self._counting = threading.RLock()
        self._opening_text = threading.RLock()

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest: its graphs, files, preprocessing and provenance."""
        return self.bundle.manifest

    @property
    def backend(self) -> str:
        """The name of the backend that runs the graphs."""
        return self._pool.backend.name

    @property
    def passed_over(self) -> tuple[PassedOver, ...]:
        """With backend="auto": the faster backends that were not taken, and the reasons."""
        return self._choice.passed_over

    @property
    def encoder_passes(self) -> int:
        """The number of times that the encoder has run."""
        return self._passes

    def encode(self, image: Any) -> Scene:
        """Run the encoder once on an image: a path, a file's bytes, a PIL image, or HWC uint8 RGB.

        Raises ImageError, ClosedError, EngineRunError.
        """
        return self._encode_prepared(self._prepare(image))

    def encode_all(self, images: Iterable[Any]) -> Iterator[Scene]:
        """Encode images in order; yields one scene at a time.

        The next image is taken from `images`, read and resized while the encoder runs. Errors are
        those of `encode`, raised at the image's turn.
        """
        with closing(map_in_order(self._prepare, images, 1)) as prepared:
            for _, future in prepared:
                yield self._encode_prepared(future.result())

    def answer_all(self, images: Iterable[Any], ask: Callable[[Scene], Answer]) -> Iterator[Answer]:
        """Encode images and yield `ask(scene)` for each, in order; scenes are closed afterwards.

        The number of images that are worked on at the same time, reading and resizing included, is
        the `streams` given to `load`; `ask` is called in those threads. Up to two more images may
        wait, for their turn or for the caller. Errors of `encode` and of `ask` are raised at the
        image's turn.
        """
        for _, answer in self.answers(images, ask):
            yield answer.result()

    def answers(
        self, images: Iterable[Image], ask: Callable[[Scene], Answer]
    ) -> Iterator[tuple[Image, Future[Answer]]]:
        """Work as `answer_all` does, but yield each image with its finished future.

        An error stays in its image's future, so that one image can fail alone.
        """

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

        Tasks accept the result in place of the names. `templates`: the name of a template set
        ("openai", "simple", "vild", "none") or templates with one `{}` each; None means the
        bundle's. `synonyms`: for some of the names, other texts with the same meaning; the one
        that fits best counts. `seen`: the names that the model was trained with. Bundles of
        Open-Vocabulary SAM, which fuse two classifiers, trust their own classifier with these and
        CLIP with the other names; None means CLIP with all. Other bundles have one classifier,
        and `seen` changes nothing.

        Raises VocabularyError, ClosedError, and CapabilityError for a bundle that cannot name or
        has no text. Warns with UntrainedHeadWarning, on every call, when the bundle's head was
        never trained.
        """
        head, text = self.manifest.head, self.manifest.text
        if head is None or text is None:
            lacking = "CLIP head" if head is None else "text"
            raise CapabilityError(
                f"bundle {self.manifest.name!r} has no {lacking}, so it cannot name anything. "
                "Export it with one, or choose another bundle."
            )
        self._pool.check_open()
        if not head.trained:
            warn_untrained(self.manifest.name)
        if isinstance(names, Vocabulary):
            if synonyms is None and seen is None:
                return names
            given = "synonyms" if seen is None else "seen"
            raise VocabularyError(
                f"{given} came with a vocabulary that is embedded already. Give it with the names, "
                "when the vocabulary is made."
            )
        checked = as_names(names)
        texts, first_rows = gather_texts(checked, synonyms)
        marked = mark_seen(checked, seen)
        with self._opening_text:
            if self._text is None:
                self._text = open_text_space(self._pool, text, self._cache_dir)
            space = self._text
        return Vocabulary(
            names=checked,
            embeddings=space.embed(texts, templates),
            logit_scale=text.logit_scale,
            trained_head=head.trained,
            first_rows=first_rows,
            seen=marked,
        )

    def close(self) -> None:
        """Wait for calls under way, then free the engines; later calls raise ClosedError.

        The model's scenes are closed with it; results stay valid. Closing again does nothing.
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
        return Scene(
            features=self._run_encoder(tensor, letterbox),
            image=image,
            get_vocabulary=self.vocabulary,
            encode=self._encode_crop,
            namer=self._namer,
        )

    def _encode_crop(self, crop: NDArray[np.uint8]) -> Features:
        return self._run_encoder(*preprocess(crop, self.manifest.preprocessing))

    def _run_encoder(self, tensor: NDArray[np.float32], letterbox: Letterbox) -> Features:
        encoded = self._pool.run("encoder", {"image": tensor})
        with self._counting:
            self._passes += 1
        return Features(self._pool, letterbox, encoded)

    def __reduce__(self) -> NoReturn:
        raise InputError(
            "a model cannot be copied, pickled or sent to another process. Send the bundle's name "
            "or path, and call samclip.load() there."
        )

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = ", closed" if self._pool.closed else ""
        return f"Model({self.manifest.name!r}, backend={self.backend!r}{state})"
