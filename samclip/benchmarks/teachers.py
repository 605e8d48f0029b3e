"""Teachers as benchmarks see them: pictures in, vectors or class scores out, as numpy arrays.

The only module of the benchmarks that needs torch; it is imported when a teacher is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samclip.baselines import DenseFeatures
from samclip.benchmarks.teacher_settings import TeacherSettings
from samclip.errors import InputError, error_context
from samclip.export.checkpoints.checkpoint import read_checkpoint
from samclip.export.checkpoints.fetch import resolve_checkpoint
from samclip.export.checkpoints.imagenet_classes import imagenet_names
from samclip.export.checkpoints.recogniser import load_recogniser
from samclip.export.checkpoints.text_source import read_text
from samclip.export.models.efficientnet_lite import RECOGNISER_MEAN, RECOGNISER_STD, RecogniserHead
from samclip.export.models.norms import fold_batch_norms
from samclip.merge.data.labels import TEMPLATES, embed_names
from samclip.merge.data.pixels import PixelBatch
from samclip.merge.teachers.conse import Conse, ConseOptions
from samclip.runtime.bundles.manifest import Preprocessing
from samclip.runtime.pixels.image import preprocess
from samclip.runtime.scene import Names, Templates
from samclip.runtime.text.names import as_names
from samclip.runtime.text.templates import resolve_templates
from samclip.runtime.text.vocabulary import Vocabulary

STRIDE = 32  # pixels between the places of the classifier's last map
AT_ONCE = 16  # pictures in a batch


class ConseTeacher:
    """ConSE as an image encoder, as a dense encoder, and as a classifier, with its own text space.

    Densely, the classifier's last map of one pass over the whole image is what gets pooled, and
    the classifier's linear layer and ConSE's rule are applied to the averages.
    """

    def __init__(
        self,
        settings: TeacherSettings,
        threads: int | None = None,
        report: Callable[[str], None] = print,
    ) -> None:
        """Read the checkpoints; those that are not here yet are fetched, which `report` is given.

        `threads`: of torch, for the whole process; None leaves them. Raises CheckpointError,
        InputError.
        """
        if settings.dense_size % STRIDE or settings.dense_size < STRIDE:
            raise InputError(f"dense_size={settings.dense_size}; a multiple of {STRIDE} works.")
        if threads is not None:
            torch.set_num_threads(threads)
        options = ConseOptions(
            settings.top_k, settings.temperature, settings.centre, settings.framing
        )
        classifier = resolve_checkpoint(settings.classifier, report)
        text = resolve_checkpoint(settings.text, report)
        self._conse = Conse(classifier, text, imagenet_names(), options)
        self._text = read_text(read_checkpoint(text))
        with error_context(str(classifier)):
            trunk = load_recogniser(read_checkpoint(classifier).state)
        self._trunk = fold_batch_norms(trunk)
        self._grid = settings.dense_size // STRIDE
        self._preprocessing = Preprocessing(
            image_size=settings.dense_size, mean=RECOGNISER_MEAN, std=RECOGNISER_STD
        )

    @property
    def fingerprint(self) -> str:
        """A digest of the teacher's weights and options."""
        return self._conse.fingerprint

    def vocabulary(self, names: Names, templates: Templates = None) -> Vocabulary:
        """Embed K names by the teacher's own text tower, or check those that it embedded.

        `templates`: as in `Model.vocabulary`; None stands for those that ConSE's class names are
        put into. A bundle's names may lie in another space: labels that teach a head make one that
        is larger. Raises VocabularyError.
        """
        if isinstance(names, Vocabulary):
            names.check(self._text.space, self._conse.embed_dim)
            return names
        chosen = resolve_templates(TEMPLATES if templates is None else templates)
        asked = as_names(names)
        return Vocabulary(
            names=asked,
            embeddings=np.asarray(embed_names(asked, self._text, chosen).numpy(), np.float32),
            logit_scale=self._text.logit_scale,
            trained_head=True,
            space=self._text.space,
            templates=chosen,
        )

    def embed_images(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Embed N images, HWC uint8 RGB of any sizes: NxD float32, of unit length."""
        return self._in_batches(images, self._conse.embed)

    def score_images(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Classify N images, HWC uint8 RGB of any sizes: NxK logits."""
        return self._in_batches(images, self._conse.class_logits)

    @torch.no_grad()
    def encode_densely(self, image: NDArray[np.uint8]) -> DenseFeatures:
        """Make one pass over an image, HWC uint8 RGB: the classifier's last map."""
        pixels, letterbox = preprocess(image, self._preprocessing)
        maps = self._head.features(self._trunk(torch.from_numpy(pixels)).stride32)[0]  # Cxgxg
        tokens = maps.reshape(len(maps), -1).T  # Cxgxg -> ggxC
        return DenseFeatures(
            np.ascontiguousarray(tokens.numpy()), letterbox.token_mask(self._grid)[0], letterbox
        )

    @torch.no_grad()
    def embed_pooled(self, pooled: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embed N averages of the last map, NxC: NxD float32, of unit length."""
        logits = self._head.classifier(torch.from_numpy(pooled))
        rows = self._conse.embed_classes(self._conse.class_probabilities(logits))
        return np.asarray(rows.numpy(), np.float32)

    @property
    def _head(self) -> RecogniserHead:
        head = self._trunk.head
        if head is None:
            raise InputError(
                "the teacher's checkpoint has no classifier. Give one that has: "
                "--teacher-option classifier=CHECKPOINT."
            )
        return head

    def _in_batches(
        self, images: Sequence[NDArray[np.uint8]], run: Callable[[PixelBatch], Tensor]
    ) -> NDArray[np.float32]:
        rows = []
        for start in range(0, len(images), AT_ONCE):
            pictures = [  # HWC uint8 -> 3xhxw float32 in [0, 255]
                torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float()
                for image in images[start : start + AT_ONCE]
            ]
            rows.append(run(PixelBatch.of(pictures)).numpy())
        return np.concatenate(rows)
