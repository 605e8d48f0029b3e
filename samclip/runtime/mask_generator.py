"""`SamAutomaticMaskGenerator`: segment-anything's interface to masks of everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from numpy.typing import ArrayLike

from samclip.runtime.model import Model
from samclip.runtime.pixels.arrays import as_pixels
from samclip.runtime.predictor import SamPredictor
from samclip.runtime.results.records import OutputMode, check_output_mode, make_records
from samclip.runtime.tasks.grid import AutoMaskOptions


class SamAutomaticMaskGenerator:
    """Finds the masks of everything in images, as records.

    Arguments, attributes and records are those of segment-anything's class of this name. The
    options are those of `AutoMaskOptions`; `points_per_side` is a number, or None together with
    `point_grids`. Attributes may be changed between images, and are checked when they are used.
    A generator may serve several threads at once while nobody changes it.

    `output_mode`: how `generate` writes a mask: "binary_mask", "uncompressed_rle" or "coco_rle".

    Raises PromptError for options out of range, and InputError for another output mode or for a
    model that does not come from `samclip.load`.

    Examples:
        >>> generator = samclip.SamAutomaticMaskGenerator(model, points_per_side=2)
        >>> records = generator.generate(scene.image)
        >>> sorted(records[0])[:3]
        ['area', 'bbox', 'crop_box']
    """

    __slots__ = (
        "box_nms_thresh",
        "crop_n_layers",
        "crop_n_points_downscale_factor",
        "crop_nms_thresh",
        "crop_overlap_ratio",
        "min_mask_region_area",
        "output_mode",
        "point_grids",
        "points_per_batch",
        "pred_iou_thresh",
        "predictor",
        "stability_score_offset",
        "stability_score_thresh",
    )

    def __init__(  # noqa: PLR0913, PLR0917 - segment-anything's, by position too
        self,
        model: Model,
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
        output_mode: OutputMode = "binary_mask",
    ) -> None:
        self.predictor = SamPredictor(model)
        self.points_per_batch = points_per_batch
        self.pred_iou_thresh = pred_iou_thresh
        self.stability_score_thresh = stability_score_thresh
        self.stability_score_offset = stability_score_offset
        self.box_nms_thresh = box_nms_thresh
        self.crop_n_layers = crop_n_layers
        self.crop_nms_thresh = crop_nms_thresh
        self.crop_overlap_ratio = crop_overlap_ratio
        self.crop_n_points_downscale_factor = crop_n_points_downscale_factor
        self.min_mask_region_area = min_mask_region_area
        self.output_mode: OutputMode = check_output_mode(output_mode)
        options = AutoMaskOptions(
            **self._options() | {"points_per_side": points_per_side, "point_grids": point_grids}
        )
        self.point_grids: Sequence[ArrayLike] = options.point_grids or [
            options.grid(layer) for layer in range(options.crop_n_layers + 1)
        ]

    def generate(self, image: ArrayLike) -> list[dict[str, Any]]:
        """Find the masks of everything in an image, HWC uint8 RGB: one record for each.

        A record has the keys of segment-anything. `segmentation`: HxW bool, or
        {"size": [h, w], "counts": ...} with the lengths of runs, column by column, the first of
        them outside the mask: a list of int for "uncompressed_rle", COCO's compressed text for
        "coco_rle"; `area`: int, pixels; `bbox`: XYWH, four int, from the first pixel to the last;
        `predicted_iou`, `stability_score`: float; `point_coords`: [[x, y]], the point that gave
        the mask; `crop_box`: XYWH, four int, the crop that it was found in. All are in pixels of
        the image.

        Each crop costs one more encoder pass. The predictor's image is left as it is. Raises
        ImageError for anything but an array HxWx3, PromptError, InputError, CapabilityError for a
        decoder of one mask, DeviceMemoryError, ClosedError, EngineRunError.
        """
        mode = check_output_mode(self.output_mode)
        with self.predictor.model.encode(as_pixels(image)) as scene:
            found = scene.everything(
                points_per_side=None, point_grids=self.point_grids, **self._options()
            )
        return make_records(found, mode)

    def _options(self) -> dict[str, Any]:
        """Collect the attributes that are options as well, without the points."""
        names = {option.name for option in fields(AutoMaskOptions)}
        names -= {"points_per_side", "point_grids", "adaptive"}
        return {name: getattr(self, name) for name in names}
