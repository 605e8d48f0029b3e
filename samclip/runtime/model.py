"""The model: one bundle, ready to run on this device; made by `loading.load`."""

from __future__ import annotations

import inspect
import logging
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samclip.engines.base import Backend, EngineOptions
from samclip.engines.dlpack import ExchangeError
from samclip.engines.foreign import ForeignTensor, is_foreign, take
from samclip.engines.machine.host import as_memory_error
from samclip.engines.registry import Choice, PassedOver
from samclip.errors import (
    ImageError,
    InputError,
    VocabularyError,
    did_you_mean,
)
from samclip.runtime.bundles.aspects import find_canvases
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.manifest import Manifest, base_name
from samclip.runtime.clip_tower import ClipOfPhoto, PassCounter, Passes
from samclip.runtime.example_regions import GivenExamples, add_examples, picture_space
from samclip.runtime.features import Features
from samclip.runtime.graph_outputs import STAND_INS
from samclip.runtime.opening import Opened, load_encoder, open_engines
from samclip.runtime.photo import DevicePhoto, Photo
from samclip.runtime.pixels.encoder_input import DeviceFeeds, EncoderFeeds, EncoderInput
from samclip.runtime.pixels.image import (
    Letterbox,
    arrange_tensor,
    check_colour,
    from_bgr,
    load_image,
)
from samclip.runtime.pixels.limits import DEFAULT_MAX_PIXELS
from samclip.runtime.pixels.mask_ops import MASK_THRESHOLD
from samclip.runtime.pixels.prompts import Arrays
from samclip.runtime.results.masks import Masks
from samclip.runtime.scene import Namer, Names, Scene, Templates
from samclip.runtime.series import map_in_order
from samclip.runtime.stages import add_times, report, stage, stopwatch
from samclip.runtime.tasks.region_naming import RegionNamer
from samclip.runtime.tasks.token_naming import TokenNamer
from samclip.runtime.tasks.tower_naming import TowerNamer
from samclip.runtime.text.bundle_text import naming_parts, open_text_space, space_digest
from samclip.runtime.text.losses import warn_same
from samclip.runtime.text.names import as_names, gather_texts, mark_seen
from samclip.runtime.text.text_space import TextSpace
from samclip.runtime.text.vocabulary import Vocabulary, join_vocabularies, warn_untrained

if TYPE_CHECKING:
    from samclip.video.watch import Ask, Watch

_logger = logging.getLogger("samclip")
Image = TypeVar("Image")
Answer = TypeVar("Answer")
Prepared = tuple[Photo, EncoderFeeds | DeviceFeeds, Letterbox, dict[str, float]]


def _is_of_torch(image: object) -> bool:
    return type(image).__module__.partition(".")[0] == "torch"


def _namer_of(manifest: Manifest) -> Namer:
    """Return what names masks and photos by the graphs that a bundle has."""
    if manifest.clip_head is None and manifest.region_head is not None:
        return RegionNamer()
    if manifest.clip_head is None and manifest.clip_tower is not None:
        return TowerNamer(manifest.clip_tower.name_by)
    return TokenNamer()


class Model:
    """One bundle, ready to run; made by `samclip.load`.

    `encode` turns an image into a `Scene`, which answers every task. Any method may be called from
    several threads at once. A model ends with `close()` or at the end of its `with` block; after
    that its methods, and those of its scenes, raise ClosedError.

    `image_format` and `mask_threshold` have the names and values of segment-anything's `Sam`: the
    order of an image's channels, and the logit above which a pixel is in a mask.

    Examples:
        >>> with samclip.load(threads=1) as model:
        ...     print(model.manifest.preprocessing.image_size)
        1024
    """

    image_format = "RGB"
    mask_threshold = MASK_THRESHOLD

    def __init__(
        self,
        bundle: Bundle,
        backend: Backend | Choice,
        options: EngineOptions,
        precision: str | None = None,
        cache_dir: str | Path | None = None,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        max_shapes: int | None = None,
        opened: Opened | None = None,
    ) -> None:
        """Make ready what `opened` is not given of: it is then of the same arguments."""
        self.bundle = bundle
        self._max_pixels = max_pixels
        self._streams = options.streams
        self._choice = backend if isinstance(backend, Choice) else Choice(backend)
        opened = opened or open_engines(
            bundle, self._choice.backend, options, precision, max_shapes
        )
        self._pool, self._hold = opened.pool, opened.hold
        manifest = bundle.manifest
        self._namer = _namer_of(manifest)
        self._cache_dir = None if cache_dir is None else Path(cache_dir)
        self._text: TextSpace | None = None
        self._has_copied_images = False
        self._counter = PassCounter()
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
    def engine_precision(self) -> str:
        """What the engines compute in where graphs are in FP32: "fp32" or "bf16", see `load`."""
        return self._pool.engine_precision

    @property
    def passed_over(self) -> tuple[PassedOver, ...]:
        """With backend="auto": the faster backends that were not taken, and the reasons."""
        return self._choice.passed_over

    @property
    def encoder_passes(self) -> int:
        """The number of times that the encoder has run."""
        return self._counter.passes.sam

    @property
    def passes(self) -> Passes:
        """How often each encoder has run: SAM's, and that of a separate CLIP."""
        return self._counter.passes

    def __call__(
        self,
        image: Any,
        names: Names | None = None,
        *,
        points: Arrays | None = None,
        labels: Arrays | None = None,
        boxes: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        color: str = "rgb",
        **options: Any,
    ) -> Masks:
        """Answer one image in one call: masks, with names if there are any.

        With points, boxes or a mask it is `Scene.segment`, else `Scene.everything`; `options` are
        those of that method. To ask an image more than once, call `encode`: each call of this one
        runs the encoder. Raises as `encode` and that method do, and InputError for other options.
        """
        prompts: dict[str, Any] = {
            "points": points,
            "labels": labels,
            "boxes": boxes,
            "mask": mask,
        }
        given = {key: value for key, value in prompts.items() if value is not None}
        method = Scene.segment if given else Scene.everything
        known = {*inspect.signature(method).parameters} - {"self", "names", *prompts}
        if unknown := sorted(set(options) - known):
            raise InputError(
                f"there is no option {unknown[0]!r}"
                f"{did_you_mean(unknown[0], known | set(prompts))} of {method.__name__}, which "
                f"answers {'these prompts' if given else 'an image without prompts'}. Choose among "
                f"{', '.join(sorted(known))}."
            )
        with self.encode(image, color=color) as scene:
            if given:
                return scene.segment(**given, names=names, **options)
            return scene.everything(names, **options)

    def encode(
        self, image: Any, *, color: str = "rgb", aspects: str | Sequence[str] | None = None
    ) -> Scene:
        """Run the encoder once on an image: a path, a file's bytes, a PIL image, or HWC uint8 RGB.

        `color`: "bgr" for arrays of OpenCV. An array may be numpy's, or a tensor of torch, cupy and
        other libraries with `__dlpack__` or `__cuda_array_interface__`. A tensor of torch may also
        be 3xHxW. The scene keeps a copy of it, so that it may be overwritten. On the host it is
        read where it lies. From a GPU it is copied to the host, which is logged once; except by
        TensorRT on that GPU, for an encoder of uint8 pixels, where its longer side is the
        encoder's: then it is copied within the GPU, and `Scene.image` is on first use.
        A file's picture is turned as its EXIF orientation says, and its colours are converted to
        sRGB; a PIL image is taken as it is, and its scene has its size. Warns with InputWarning
        about a PIL image that was opened from a file and not turned upright.
        `aspects`: for bundles with several shapes of input, those to choose among for this image,
        see `load`; None means all. A flatter one than the image's takes less time, and makes the
        image smaller.

        Raises ImageError, InputError, ClosedError, EngineRunError.

        Examples:
            >>> with model.encode(photo) as scene:
            ...     scene.size
            (400, 600)
        """
        form = self._encoder_input_for(aspects)
        return self._encode_prepared(self._prepare(image, check_colour(color), form))

    def encode_all(self, images: Iterable[Any], *, color: str = "rgb") -> Iterator[Scene]:
        """Encode images in order; yields one scene at a time.

        The next image is taken from `images`, read and resized while the encoder runs. An image may
        still be read when the next one is asked for: a camera needs two buffers. Errors are those
        of `encode`, raised at the image's turn.

        Examples:
            >>> for scene in model.encode_all([photo]):
            ...     print(scene)
            Scene(600x400)
        """
        prepare = partial(self._prepare, is_bgr=check_colour(color))
        with closing(map_in_order(prepare, images, 1)) as prepared:
            for _, future in prepared:
                yield self._encode_prepared(future.result())

    def answer_all(
        self, images: Iterable[Any], ask: Callable[[Scene], Answer], *, color: str = "rgb"
    ) -> Iterator[Answer]:
        """Encode images and yield `ask(scene)` for each, in order; scenes are closed afterwards.

        The number of images that are worked on at the same time, reading and resizing included, is
        the `streams` given to `load`; `ask` is called in those threads. Up to two more images may
        wait, for their turn or for the caller. Errors of `encode` and of `ask` are raised at the
        image's turn.

        Examples:
            >>> names = ["a cup of coffee", "a cat"]
            >>> list(model.answer_all([photo], lambda scene: scene.classify(names).best))
            ['a cup of coffee']
        """
        for _, answer in self.answers(images, ask, color=color):
            yield answer.result()

    def answers(
        self, images: Iterable[Image], ask: Callable[[Scene], Answer], *, color: str = "rgb"
    ) -> Iterator[tuple[Image, Future[Answer]]]:
        """Work as `answer_all` does, but yield each image with its finished future.

        An error stays in its image's future, so that one image can fail alone.

        Examples:
            >>> for path, answer in model.answers([photo, "gone.jpg"], lambda scene: scene.size):
            ...     print(answer.exception() or answer.result())  # doctest: +ELLIPSIS
            (400, 600)
            ...gone.jpg...
        """

        def work(image: Image) -> Answer:
            with self.encode(image, color=color) as scene:
                return ask(scene)

        check_colour(color)
        return map_in_order(work, images, self._streams)

    @as_memory_error
    def watch(  # noqa: PLR0913 - the options of a loop
        self,
        source: Any,
        names: Names | None = None,
        *,
        points: Arrays | None = None,
        labels: Arrays | None = None,
        boxes: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        ask: Ask | None = None,
        templates: Templates = None,
        every_n: int = 1,
        max_fps: float | None = None,
        budget_ms: float | None = None,
        smaller: Sequence[Model] = (),
        skip_still: float | None = None,
        tracker: Any = None,
        **options: Any,
    ) -> Watch:
        """Answer the frames of a stream one after the other: masks, names and tracks.

        `source`: what `samclip.open_video` takes or returns, or an iterable of arrays HxWx3 uint8
        RGB. Decoding, the encoder, and the answers of neighbouring frames overlap.
        `points`, `labels`, `boxes`, `mask`: as in `Scene.segment`, for the first frame; the objects
        are then followed, see `Scene.follow`. `ask`: a function of your own from a scene to masks,
        as `lambda scene: scene.segment(boxes=detect(scene.image))`. Without either,
        `Scene.everything` answers each frame, with 16 points a side; its options may be given.
        `names`, `templates`: give each mask the name that fits it best; `Watch.names` may be set
        while the loop runs.
        `every_n`: answer every n-th frame; `max_fps`: at most so many a second of the stream.
        `budget_ms`: what encoder and answer of a frame may take. To keep it the encoder's input
        gets smaller, where this bundle has a flatter shape, or `smaller` has models of the same
        kind with smaller inputs; and `everything` tries fewer points.
        `skip_still`: frames in which nothing differs by this many grey levels of 0 to 255 from
        the last one that was encoded get its masks again, without an encoder pass; 4 suits most
        cameras. None of these four is on by default.
        `tracker`: a `samclip.Tracks`, or a tracker of the packages trackers and supervision; None
        for `Tracks`. Further options are those of `open_video` and `Scene.everything`.

        Raises InputError, StreamOpenError, StreamTimeoutError, VocabularyError, CapabilityError.

        Examples:
            >>> with model.watch([scene.image] * 2, boxes=[(172, 17, 410, 308)]) as watch:
            ...     for result in watch:
            ...         print(result.number, result.tracks.tolist())
            0 [1]
            1 [1]
        """
        from samclip.video.watch import Watch  # noqa: PLC0415 - what only a stream needs

        given = {"points": points, "labels": labels, "boxes": boxes, "mask": mask}
        return Watch(
            self,
            self.manifest.preprocessing.image_size,
            source,
            names,
            prompts={key: value for key, value in given.items() if value is not None},
            ask=ask,
            templates=templates,
            every_n=every_n,
            max_fps=max_fps,
            budget_ms=budget_ms,
            smaller=smaller,
            skip_still=skip_still,
            tracker=tracker,
            options=options,
        )

    @as_memory_error
    def vocabulary(
        self,
        names: Names,
        templates: Templates = None,
        *,
        synonyms: Mapping[str, Sequence[str]] | None = None,
        seen: Sequence[str] | None = None,
        examples: GivenExamples | None = None,
    ) -> Vocabulary:
        """Embed names in the bundle's text space, once for all tasks that take `names`.

        Tasks accept the result in place of the names. `templates`: the name of a template set
        ("openai", "simple", "vild", "none") or templates with one `{}` each; None means the
        bundle's. `synonyms`: for some of the names, other texts with the same meaning; the one
        that fits best counts. `seen`: the names that the model was trained with. Bundles of
        Open-Vocabulary SAM, which fuse two classifiers, trust their own classifier with these and
        CLIP with the other names; None means CLIP with all. Other bundles have one classifier,
        and `seen` changes nothing.

        A vocabulary in place of `names` is checked and returned: it must have been made in the same
        text space, by this model or another one. A list may hold vocabularies among its names: the
        result has the names of the vocabularies, then those of the other names that are new.

        `examples`: for some of the names, pictures of them: a list of pairs (scene, region). The
        scene is of this bundle. The region is a mask HxW bool, a box of 4 numbers XYXY, from which
        the decoder makes a mask, `Masks`, of which each is an example, or None for the whole photo.
        The mean of the examples turns a name's embedding towards them, the more the more examples
        there are, see `samclip.runtime.text.examples`. With a vocabulary as `names` they are added
        to the examples that it has.

        Raises VocabularyError, for names of which the tokenizer knows nothing as well, ClosedError,
        and CapabilityError for a bundle that cannot name or has no text, or for examples where
        regions are named by classifiers (Open-Vocabulary SAM). PromptError for a region that does
        not fit its scene or shows nothing. On every call, warns with
        UntrainedHeadWarning when the bundle's head was never trained, and with InputWarning about
        names of which a part is unknown to the tokenizer or cut off, and about names that are the
        same to the text encoder.

        Examples:
            >>> synonyms = {"drink": ["cup of coffee"]}
            >>> vocabulary = model.vocabulary(["drink", "cat"], synonyms=synonyms)
            >>> scene.classify(vocabulary).best
            'drink'
            >>> examples = {"my mug": [(scene, (172, 17, 410, 308))]}
            >>> taught = model.vocabulary(["my mug", "table"], examples=examples)
            >>> scene.segment(boxes=[(172, 17, 410, 308)], names=taught).names
            ('my mug',)
        """
        made = self._embed_names(names, templates, synonyms, seen)
        return made if examples is None else add_examples(made, examples, self.bundle)

    def _embed_names(
        self,
        names: Names,
        templates: Templates,
        synonyms: Mapping[str, Sequence[str]] | None,
        seen: Sequence[str] | None,
    ) -> Vocabulary:
        """Embed names without examples, or check those that are embedded; see `vocabulary`."""
        if isinstance(names, list | tuple):
            made = [each for each in names if isinstance(each, Vocabulary)]
            if made:
                parts = [self._embed_names(each, None, None, None) for each in made]
                known = {name for each in made for name in each.names}
                others = [each for each in names if not isinstance(each, Vocabulary)]
                new = [name for name in others if name not in known]
                if new or synonyms is not None or seen is not None:
                    parts.append(self._embed_names(new, templates, synonyms, seen))
                return join_vocabularies(parts)
        head, text = naming_parts(self.manifest)
        self._pool.check_open()
        if not head.trained:
            warn_untrained(self.manifest.name)
        if isinstance(names, Vocabulary):
            if synonyms is None and seen is None:
                pictures = None if names.examples is None else self._picture_space
                names.check(self._text_space, text.embed_dim, pictures)
                is_own = names.trained_head == head.trained
                return names if is_own else replace(names, trained_head=head.trained)
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
        embeddings = space.embed(texts, templates)
        warn_same(checked, texts, embeddings, first_rows)
        return Vocabulary(
            names=checked,
            embeddings=embeddings,
            logit_scale=text.logit_scale,
            trained_head=head.trained,
            first_rows=first_rows,
            seen=marked,
            space=self._text_space,
            templates=space.resolve(templates),
        )

    @as_memory_error
    def encode_resized(
        self,
        resized: NDArray[np.float32],
        original_size: tuple[int, int],
        *,
        aspects: str | Sequence[str] | None = None,
    ) -> Features:
        """Run the encoder on an image that was resized by the caller: its features.

        `resized`: hxwx3 RGB in [0, 255], whose longer side is the encoder's input side;
        `original_size`: (h, w) before; `aspects` as for `encode`. For
        `SamPredictor.set_torch_image`; `encode` resizes.
        Raises ImageError for other sizes, ClosedError, EngineRunError.
        """
        whole = Letterbox.fit(original_size, self.manifest.preprocessing.image_size)
        if resized.shape != (*whole.input_size, 3):
            raise ImageError(
                f"a resized image must be {whole.input_size} x 3 for an original of (h, w) = "
                f"{original_size}; got {resized.shape}. Resize it by transform.apply_image."
            )
        form = self._encoder_input_for(aspects)
        letterbox = form.fit_exactly(original_size)
        if letterbox.input_size != whole.input_size:
            raise ImageError(
                f"no encoder of bundle {self.manifest.name!r} holds a resized image of "
                f"{whole.input_size}, only of {self.bundle.canvases}. Give the image itself to "
                "encode, which makes it smaller."
            )
        feeds = form.place(resized, letterbox.canvas)
        return self._run_encoder(feeds, letterbox, self._counter)

    def _encoder_input_for(self, aspects: str | Sequence[str] | None) -> EncoderInput:
        """Return the form of the encoder's input, for some of the shapes; InputError."""
        form = self._encoder_input
        if aspects is None:
            return form
        return replace(form, canvases=find_canvases(self.manifest, aspects))

    @cached_property
    def _encoder_input(self) -> EncoderInput:
        """The form in which the encoder takes images; ManifestError for one that is unknown."""
        manifest = self.manifest
        inputs = manifest.graphs.encoder.inputs
        return EncoderInput.declared(inputs, manifest.preprocessing, self.bundle.canvases)

    @cached_property
    def _text_space(self) -> str:
        """The digest of the bundle's text space."""
        text = self.manifest.text
        return "" if text is None else space_digest(self.bundle, text)

    @cached_property
    def _picture_space(self) -> str:
        """The digest of what embeds the bundle's pictures."""
        return picture_space(self.bundle)

    def prepare(self) -> None:
        """Make all graphs ready now, each of which is otherwise made ready by its first use.

        Raises EngineRunError, BackendUnavailableError, ClosedError.
        """
        for graph in self.bundle.graph_names:
            if base_name(graph) not in STAND_INS or self._pool.variant(graph) is not None:
                self._pool.load(graph)

    def close(self) -> None:
        """Wait for calls under way, then free the engines; later calls raise ClosedError.

        The model's scenes are closed with it; results stay valid. Closing again does nothing.
        """
        self._pool.close()
        if self._hold is not None:
            self._hold.close()

    @as_memory_error
    def _prepare(
        self, image: Any, is_bgr: bool = False, form: EncoderInput | None = None
    ) -> Prepared:
        with stopwatch() as watch:
            photo, feeds, letterbox = self._prepare_untimed(
                image, is_bgr, form or self._encoder_input
            )
        return photo, feeds, letterbox, watch.times

    def _prepare_untimed(
        self, image: Any, is_bgr: bool, form: EncoderInput
    ) -> tuple[Photo, EncoderFeeds | DeviceFeeds, Letterbox]:
        with stage("decode"):
            given: Any = self._taken(image) if is_foreign(image) else image
            if isinstance(given, ForeignTensor):
                reason = "its colours are BGR"
                if not is_bgr:
                    reason, prepared = self._prepare_on_device(given, form)
                    if prepared is not None:
                        return prepared
                given = self._copied(given, reason)
            if is_foreign(image) and _is_of_torch(image):
                given = arrange_tensor(given)
            if is_bgr:
                given = from_bgr(given)
            pixels = load_image(given, self._max_pixels, self._pool.check_open)
            if isinstance(given, np.ndarray) and np.may_share_memory(pixels, given):
                pixels = pixels.copy()  # the scene must not change with the caller's array
            pixels.flags.writeable = False
        with stage("preprocess"):
            feeds, letterbox = form.feeds(pixels)
        return pixels, feeds, letterbox

    def _taken(self, image: Any) -> NDArray[np.generic] | ForeignTensor:
        self._pool.check_open()
        try:
            return take(image)
        except ExchangeError as error:
            raise ImageError(str(error)) from error

    def _prepare_on_device(
        self, image: ForeignTensor, form: EncoderInput
    ) -> tuple[str, tuple[Photo, DeviceFeeds, Letterbox] | None]:
        """Copy an image within its GPU; else return why not, and None."""
        reason = form.misfit(image.shape, image.dtype)
        if reason is not None or math.prod(image.shape[:2]) > self._max_pixels:
            return reason or "it has more than max_pixels", None
        letterbox = form.fit_exactly((image.shape[0], image.shape[1]))
        encoder = self.manifest.name_for("encoder", letterbox.canvas)
        kept = self._pool.keep(encoder, image, letterbox.canvas[1])
        if kept is None:
            return f"the backend {self.backend!r} does not take it where it is", None
        photo = DevicePhoto(kept, image.shape[1])
        return "", (photo, form.feeds_on_device(kept, letterbox), letterbox)

    def _copied(self, image: ForeignTensor, reason: str) -> NDArray[np.generic]:
        """Copy an image from a GPU to the host; the first time, log the reason."""
        if not self._has_copied_images:
            self._has_copied_images = True
            _logger.info(
                "an image on a GPU is copied to the host: %s. Further ones are not logged.", reason
            )
        try:
            return image.numpy()
        except ExchangeError as error:
            raise ImageError(str(error)) from error

    @as_memory_error
    def _encode_prepared(self, prepared: Prepared) -> Scene:
        image, feeds, letterbox, times = prepared
        counter = PassCounter(self._counter)
        tower = None
        if (described := self.manifest.clip_tower) is not None:
            tower = ClipOfPhoto(self._pool, described, image, counter)
        with stopwatch() as watch:
            features = self._run_encoder(feeds, letterbox, counter, tower)
        times = add_times(times, watch.times)
        report("encode", times)
        return Scene(
            features=features,
            image=image,
            get_vocabulary=self.vocabulary,
            encode=partial(self._encode_crop, counter),
            namer=self._namer,
            counter=counter,
            timings=times,
        )

    def _encode_crop(self, counter: PassCounter, crop: NDArray[np.uint8]) -> Features:
        with stage("preprocess"):
            feeds, letterbox = self._encoder_input.feeds(crop)
        return self._run_encoder(feeds, letterbox, counter)

    def _run_encoder(
        self,
        feeds: EncoderFeeds | DeviceFeeds,
        letterbox: Letterbox,
        counter: PassCounter,
        tower: ClipOfPhoto | None = None,
    ) -> Features:
        with stage("encode"):
            load_encoder(self._pool, letterbox.canvas)
            encoded = self._pool.run(self.manifest.name_for("encoder", letterbox.canvas), feeds)
        counter.add(sam=1)
        return Features(self._pool, letterbox, encoded, tower)

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
