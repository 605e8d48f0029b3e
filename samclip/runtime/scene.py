"""The scene: one encoded image, which answers every task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samclip.engines.device_tensor import DeviceTensor
from samclip.engines.machine.host import as_memory_error
from samclip.errors import CapabilityError, InputError, InputWarning, brief, warn_caller
from samclip.progress import SILENT, Progress
from samclip.runtime.bundles.manifest import NameBy
from samclip.runtime.clip_tower import PassCounter, Passes
from samclip.runtime.features import Features
from samclip.runtime.photo import Photo, pixels_of
from samclip.runtime.pixels.arrays import as_flag
from samclip.runtime.pixels.prompts import Arrays, Prompt, parse_prompts
from samclip.runtime.results.classification import Classification, SemanticMap
from samclip.runtime.results.device_masks import DeviceMasks
from samclip.runtime.results.masks import AutoMasks, Masks
from samclip.runtime.results.viewing import Viewable, describe_size
from samclip.runtime.stages import stage, timed
from samclip.runtime.tasks.everything import Encode, segment_everything
from samclip.runtime.tasks.follow import Memory, follow, follow_masks, remember
from samclip.runtime.tasks.grid import AutoMaskOptions
from samclip.runtime.tasks.region_naming import RegionNamer
from samclip.runtime.tasks.regions import parse_given
from samclip.runtime.tasks.segment import segment, segment_on_device
from samclip.runtime.tasks.semantic import semantic
from samclip.runtime.tasks.token_naming import AnyMasks, TokenNamer
from samclip.runtime.tasks.tower_naming import TowerNamer, check_name_by
from samclip.runtime.text.vocabulary import Vocabulary

Templates = str | Sequence[str] | None
Names = Sequence[str | Vocabulary] | Vocabulary
GetVocabulary = Callable[[Names, Templates], Vocabulary]
Namer = TokenNamer | RegionNamer | TowerNamer


class Scene(Viewable):
    """One encoder pass over one image, which answers every task; made by `Model.encode`.

    No task runs the encoder again, except `everything` with crops. A bundle with two towers also
    runs its CLIP, when names are first asked for, and for crops around masks; `passes` counts all
    that. Scenes are independent of each other and may be used from several threads at once. A scene
    ends with `close()`, at the end of its `with` block, or with its model; after that tasks raise
    ClosedError.

    Tasks take `names` as a list of str or as a vocabulary from `Model.vocabulary`, or as a list of
    both, and
    `templates` as the name of a template set or as templates with one `{}` each; None means the
    bundle's templates. Names need a bundle with text and with a CLIP head, classifiers of
    regions or a separate CLIP, else CapabilityError is raised. A head that was never trained
    gives an UntrainedHeadWarning on every use.

    Examples:
        >>> with model.encode(photo) as scene:
        ...     cup = scene.segment(boxes=[(172, 17, 410, 308)])
        ...     best = scene.classify(["a cup of coffee", "a cat"]).best
        >>> len(cup), best
        (1, 'a cup of coffee')
    """

    def __init__(
        self,
        features: Features,
        image: Photo,
        get_vocabulary: GetVocabulary,
        encode: Encode,
        namer: Namer,
        counter: PassCounter | None = None,
        timings: Mapping[str, float] | None = None,
    ) -> None:
        self._features = features
        self._image = image
        self._get_vocabulary = get_vocabulary
        self._encode = encode
        self._namer = namer
        self._counter = counter or PassCounter()
        self._timings = dict(timings or {})

    @property
    def image(self) -> NDArray[np.uint8]:
        """The image: HWC uint8 RGB, read-only; from a GPU it is copied to the host on first use."""
        return pixels_of(self._image)

    @property
    def timings(self) -> dict[str, float]:
        """What the image took, in ms by stage; those of an answer have its own stages too.

        "decode": from a file, bytes, or an array to pixels; "preprocess": their resize and
        normalisation; "encode": the encoder; "prompts": the checks of prompts, the mask decoder,
        and the filters of `everything`; "upscale": masks at the size of the image; "names": texts,
        the CLIP head, and the naming. What a graph's first run loads is counted with it. Crops of
        `everything` are encoded for its answer, and counted there. Each stage is measured once,
        by the process's clock: "encode" ends when the backend returns.
        """
        return dict(self._timings)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image in pixels."""
        return self._features.letterbox.original_size

    @property
    @as_memory_error
    def image_embed(self) -> NDArray[np.float32]:
        """CLIP's embedding of the image: D float32, not normalised, read-only."""
        return self._features.image_embed()

    @property
    @as_memory_error
    def patch_embeds(self) -> NDArray[np.float32]:
        """CLIP's embeddings of the tokens: Dxgxg float32, not normalised, read-only."""
        return self._features.clip().patch_embeds

    @property
    @as_memory_error
    def image_embeddings(self) -> NDArray[np.float32]:
        """SAM's embedding of the image, copied to the host: 1x256xGxG float32.

        On a shape of input other than the square it has fewer rows or columns.
        """
        return self._features.image_embeddings()

    @property
    def passes(self) -> Passes:
        """How often the encoders ran for this scene so far."""
        return self._counter.passes

    @property
    def tensor_names(self) -> tuple[str, ...]:
        """The names that `tensor` takes: the encoder's outputs. Raises ClosedError."""
        return self._features.tensor_names

    def tensor(self, name: str) -> DeviceTensor:
        """Return an output of the encoder on the device that computed it, without a copy.

        "image_embeddings": that of `Scene.image_embeddings`; "backbone_features": before SAM's
        neck. torch, cupy, jax and numba take it as it is, see `DeviceTensor`. It stays valid after
        `close` of scene and model. Do not write to it: this scene's tasks read the same memory.
        Raises InputError for another name, ClosedError.

        Examples:
            >>> scene.tensor_names
            ('backbone_features', 'image_embeddings')
            >>> scene.tensor("image_embeddings").shape
            (1, 256, 48, 64)
        """
        return self._features.tensor(name)

    @property
    def features(self) -> Features:
        """The encoder's outputs, for code that works on logits, as `SamPredictor` does."""
        return self._features

    @as_memory_error
    @timed("classify")
    def classify(self, names: Names, templates: Templates = None) -> Classification:
        """Score how well each name fits the whole image.

        The names are compared with the CLIP head's embedding of the image, or that of a CLIP of its
        own by CLIP's own preprocessing, or, in a bundle with classifiers of regions, with CLIP's
        pooling over the whole image, see `RegionNamer.classify`. Raises VocabularyError,
        CapabilityError, ClosedError. Warns with InputWarning for a single name, whose probability
        is always 1.

        Examples:
            >>> scene.classify(["a cup of coffee", "a cat"]).best
            'a cup of coffee'
        """
        self._features.check_open()
        vocabulary = self._embed(names, templates)
        if len(vocabulary.names) == 1:
            warn_caller(
                f"{vocabulary.names[0]!r:.60} is the only name: probabilities compare names, so "
                "that it has 100 % in any photo. Add names of what else there may be, or take "
                "its `logits`.",
                InputWarning,
            )
        with stage("names"):
            return self._namer.classify(self._features, vocabulary, self._image)

    @as_memory_error
    @timed("segment")
    def segment(
        self,
        points: Arrays | None = None,
        labels: Arrays | None = None,
        boxes: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        *,
        multimask: bool = False,
        names: Names | None = None,
        templates: Templates = None,
        return_logits: bool = False,
        name_by: NameBy | None = None,
    ) -> Masks:
        """Segment the objects at points, boxes or masks; one mask per prompt.

        Coordinates are (x, y) in pixels of the original image. Points, boxes and masks that are
        given together are paired, prompt by prompt.

        `points`: Nx2 is ONE prompt of N points; BxNx2, or a list of arrays Nx2, is B prompts.
        `labels`: 1 foreground, 0 background, shaped as `points` without the 2; None means all
        foreground.
        `boxes`: 4 or Bx4 XYXY. Empty boxes, 0x4 or `[]` of a detector that found nothing, give no
        masks.
        `mask`: hxw or Bxhxw logits, from the `low_res_logits` of an earlier result.
        `multimask`: three masks per prompt instead of one.
        `names`: give each mask the name that fits it best.
        `return_logits`: keep the upscaled logits in `Masks.logits`.
        `name_by`: "crop-image" or "crop-feature", how a bundle with two towers names masks, see
        `TowerNamer.name`; None as the bundle says.

        See `parse_prompts` for the prompts that are refused, and
        `samclip.runtime.tasks.segment.segment` for the choice of the mask. Raises PromptError,
        VocabularyError, CapabilityError, ClosedError.

        Examples:
            >>> masks = scene.segment(boxes=[(172, 17, 410, 308)], names=["cup", "cat"])
            >>> masks.names, masks.masks.shape
            (('cup',), (1, 400, 600))
            >>> len(scene.segment(points=[(290, 150)], multimask=True))
            3
        """
        self._features.check_open()
        multimask = as_flag(multimask, "multimask")
        return_logits = as_flag(return_logits, "return_logits")
        name_by = self._check_name_by(name_by, names)
        prompts = self._parse(points, labels, boxes, mask)
        vocabulary = None if names is None else self._embed(names, templates)
        masks = segment(
            self._features, prompts, self._image, multimask=multimask, return_logits=return_logits
        )
        return masks if vocabulary is None else self._name(masks, vocabulary, name_by)

    @as_memory_error
    @timed("segment_on_device")
    def segment_on_device(
        self,
        points: Arrays | None = None,
        labels: Arrays | None = None,
        boxes: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        *,
        multimask: bool = False,
        return_logits: bool = False,
    ) -> DeviceMasks:
        """Segment as `segment` does, with masks that stay on the device; without names.

        The arguments are those of `segment`. On a GPU nothing of a mask's pixels is copied to the
        host; on a CPU `segment` is faster. Needs a bundle that was exported with a mask upscaler,
        else CapabilityError is raised. Raises PromptError, DeviceMemoryError, EngineRunError,
        ClosedError.
        """
        self._features.check_open()
        multimask = as_flag(multimask, "multimask")
        return_logits = as_flag(return_logits, "return_logits")
        prompts = self._parse(points, labels, boxes, mask)
        return segment_on_device(
            self._features, prompts, multimask=multimask, return_logits=return_logits
        )

    @as_memory_error
    @timed("name")
    def name(
        self,
        masks: Masks | ArrayLike,
        names: Names,
        templates: Templates = None,
        *,
        name_by: NameBy | None = None,
    ) -> Masks:
        """Name masks that exist already: each gets the name that fits it best.

        `masks`: NxHxW or HxW bool in pixels of the original image, drawn by hand or by another
        model, or `Masks` of this image. `name_by` as in `segment`. Raises PromptError,
        VocabularyError, CapabilityError, ClosedError.

        Examples:
            >>> import numpy as np
            >>> drawn = np.zeros(scene.size, bool)
            >>> drawn[20:300, 180:400] = True
            >>> scene.name(drawn, ["cup", "cat"]).names
            ('cup',)
        """
        self._features.check_open()
        name_by = self._check_name_by(name_by, names)
        with stage("names"):
            given = parse_given(masks, self._image)
        return self._name(given, self._embed(names, templates), name_by)

    @as_memory_error
    def embed_masks(self, masks: Masks | ArrayLike) -> NDArray[np.float32]:
        """Embed what masks show, as names are compared with it: NxD float32, not normalised.

        `masks`: as `name` takes them. Tokens are averaged inside each mask, or a crop around it is
        embedded, as the bundle names masks. Raises PromptError, ClosedError, CapabilityError for a
        bundle without such embeddings.

        Examples:
            >>> cup = scene.segment(boxes=[(172, 17, 410, 308)])
            >>> len(scene.embed_masks(cup))
            1
        """
        self._features.check_open()
        given = parse_given(masks, self._image)
        if isinstance(self._namer, RegionNamer):
            raise CapabilityError(
                f"bundle {self._features.bundle.manifest.name!r} names masks by two classifiers, "
                "which take texts and return scores: it has no embeddings of masks. Choose a "
                "bundle with a CLIP head or with two towers."
            )
        return self._namer.embed(given, self._features)

    @as_memory_error
    @timed("semantic")
    def semantic(
        self,
        names: Names,
        templates: Templates = None,
        refine: bool = False,
        background: float | None = None,
        denoise: float | None = None,
    ) -> SemanticMap:
        """Label every pixel with the name that fits it best.

        `refine`: let SAM's decoder draw the borders; otherwise they come from the CLIP head's
        tokens and are coarse. `background`: pixels whose probability is below this number in
        [0, 1] get label -1; None labels all. `denoise`: names whose probability is below this
        number in [0, 1] everywhere are left out, as RADSeg does with 0.5; if that were all names,
        none is. The others are compared with tokens averaged where SAM's embedding is alike, except
        where the bundle averages tokens itself or names them by a separate CLIP. Raises
        VocabularyError, CapabilityError, ClosedError. Warns with InputWarning for a `background`
        with a single name, whose probability is 1.

        Examples:
            >>> labels = scene.semantic(["cup of coffee", "cat"])
            >>> labels.labels.shape, labels.present[0]
            ((400, 600), 'cup of coffee')
        """
        self._features.check_open()
        with stage("names"):
            return semantic(
                self._features,
                self._get_vocabulary(names, templates),
                self._image,
                refine=as_flag(refine, "refine"),
                background=background,
                denoise=denoise,
            )

    @as_memory_error
    @timed("everything")
    def everything(  # noqa: PLR0913 - segment-anything's options
        self,
        names: Names | None = None,
        templates: Templates = None,
        *,
        points_per_side: int | None = 32,
        points_per_batch: int = 64,
        pred_iou_thresh: float = 0.88,
        stability_score_thresh: float = 0.95,
        stability_score_offset: float = 1.0,
        box_nms_thresh: float = 0.7,
        crop_n_layers: int = 0,
        crop_nms_thresh: float = 0.7,
        crop_overlap_ratio: float = 512 / 1500,
        crop_n_points_downscale_factor: int = 1,
        point_grids: Sequence[ArrayLike] | None = None,
        min_mask_region_area: float = 0,
        adaptive: bool = False,
        name_by: NameBy | None = None,
        progress: Progress = SILENT,
    ) -> AutoMasks:
        """Segment everything, by the rules of segment-anything's `SamAutomaticMaskGenerator`.

        `names`: give each mask the name that fits it best. `name_by` as in `segment`. The other
        options are those of `samclip.runtime.tasks.grid.AutoMaskOptions`. `adaptive`: try a
        quarter of the grid first, then only points that these leave open, which takes half the
        time and finds less of what is small; docs/evidence/cpu.md has the figures. With
        `crop_n_layers` above 0 each crop is encoded too, which `Model.encoder_passes` counts.
        `progress` gets one stage, "points", with a step for each point; one that is left out has
        the text "covered". Raises PromptError, VocabularyError,
        CapabilityError, ClosedError.

        Examples:
            >>> found = scene.everything(["cup", "table"], points_per_side=2)
            >>> len(found) == len(found.names) > 0
            True
        """
        self._features.check_open()
        name_by = self._check_name_by(name_by, names)
        options = AutoMaskOptions(
            points_per_side=points_per_side,
            points_per_batch=points_per_batch,
            pred_iou_thresh=pred_iou_thresh,
            stability_score_thresh=stability_score_thresh,
            stability_score_offset=stability_score_offset,
            box_nms_thresh=box_nms_thresh,
            crop_n_layers=crop_n_layers,
            crop_nms_thresh=crop_nms_thresh,
            crop_overlap_ratio=crop_overlap_ratio,
            crop_n_points_downscale_factor=crop_n_points_downscale_factor,
            point_grids=point_grids,
            min_mask_region_area=min_mask_region_area,
            adaptive=adaptive,
        )
        vocabulary = None if names is None else self._embed(names, templates)
        with stage("prompts"):
            found = segment_everything(self._features, self._image, options, self._encode, progress)
        return found if vocabulary is None else self._name(found, vocabulary, name_by)

    @as_memory_error
    def remember(self, masks: Masks | ArrayLike) -> Memory:
        """Remember objects of this image, for `follow` in the next images of a stream.

        `masks`: as `name` takes them. Raises PromptError, also for an empty mask, ClosedError.

        Examples:
            >>> memory = scene.remember(scene.segment(boxes=[(172, 17, 410, 308)]))
            >>> len(memory)
            1
        """
        self._features.check_open()
        return remember(self._features, parse_given(masks, self._image))

    @as_memory_error
    @timed("follow")
    def follow(
        self, previous: Memory | Masks, names: Names | None = None, templates: Templates = None
    ) -> Masks:
        """Find the objects of the images before this one: one mask each, in their order.

        `previous`: what `remember` returned, which is updated; or the `Masks` of the image before
        this one, of which each becomes the decoder's prompt, with the box around it: that is
        enough for slow movements. An object that is not found has an empty mask and the score 0.
        `names`: give each mask the name that fits it best. Raises VocabularyError,
        CapabilityError, ClosedError, InputError for something else than `previous`.

        Examples:
            >>> cup = scene.segment(boxes=[(172, 17, 410, 308)])
            >>> again = scene.follow(cup)
            >>> again.areas.shape
            (1,)
        """
        self._features.check_open()
        vocabulary = None if names is None else self._embed(names, templates)
        if isinstance(previous, Memory):
            found = follow(self._features, previous, self._image)
        elif isinstance(previous, Masks):
            found = follow_masks(self._features, previous, self._image)
        else:
            raise InputError(
                f"follow takes what `remember` returned, or Masks; got {brief(previous)}."
            )
        return found if vocabulary is None else self._name(found, vocabulary, None)

    def _check_name_by(self, name_by: NameBy | None, names: Names | None) -> NameBy | None:
        checked = check_name_by(name_by, names)
        if checked is not None:
            self._features.tower()  # or CapabilityError
        return checked

    def _parse(
        self,
        points: Arrays | None,
        labels: Arrays | None,
        boxes: ArrayLike | None,
        mask: ArrayLike | None,
    ) -> tuple[Prompt, ...]:
        with stage("prompts"):
            return parse_prompts(
                self.size,
                self._features.mask_size,
                points=points,
                labels=labels,
                boxes=boxes,
                mask=mask,
            )

    def _embed(self, names: Names, templates: Templates) -> Vocabulary:
        with stage("names"):
            return self._get_vocabulary(names, templates)

    def _name(self, masks: AnyMasks, vocabulary: Vocabulary, name_by: NameBy | None) -> AnyMasks:
        with stage("names"):
            if isinstance(self._namer, TowerNamer):
                return self._namer.name(masks, self._features, vocabulary, name_by)
            return self._namer.name(masks, self._features, vocabulary)

    def close(self) -> None:
        """Release the encoder's outputs; results stay valid. Closing again does nothing."""
        self._features.close()

    def __reduce__(self) -> NoReturn:
        raise InputError(
            "a scene cannot be copied, pickled or sent to another process. Send its image, or its "
            "results, which can."
        )

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Scene({describe_size(self.size)}{', closed' if self._features.closed else ''})"

    def _make_figure(self, **options: Any) -> NDArray[np.uint8]:
        if options:
            raise InputError(f"a scene is drawn without options; got {brief(options)}.")
        return self.image
