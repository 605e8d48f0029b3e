"""Answers as messages: label mask, confidence, names, detections with tracks, and an overlay.

All have the camera's header: its time stamp and its optical frame. In the mask a pixel's value is
its name's place in the list, and 255, which `vision_msgs/LabelInfo` reserves for it, where no name
fits.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import Image
from vision_msgs.msg import (
    Detection2D,
    Detection2DArray,
    LabelInfo,
    ObjectHypothesisWithPose,
    VisionClass,
)

from samclip import FrameResult, SemanticMap
from samclip_ros.settings import UNLABELLED


def image_message(pixels: NDArray[np.uint8], header: Any) -> Image:
    """Return HxW uint8 as mono8, HxWx3 uint8 RGB as rgb8."""
    height, width = pixels.shape[:2]
    message = Image()
    message.header = header
    message.height, message.width = height, width
    message.encoding = "mono8" if pixels.ndim == 2 else "rgb8"
    message.is_bigendian = 0
    message.step = width * (1 if pixels.ndim == 2 else 3)
    data = array("B")  # other sequences are checked, byte by byte, when a message gets them
    data.frombytes(np.ascontiguousarray(pixels).data)
    message.data = data
    return message


def mask_message(labels: SemanticMap, header: Any) -> Image:
    """Return the label of each pixel as mono8."""
    values = np.where(labels.labels < 0, UNLABELLED, labels.labels)
    return image_message(values.astype(np.uint8), header)


def confidence_message(labels: SemanticMap, header: Any) -> Image:
    """Return how sure each pixel's label is as mono8, 255 for a probability of 1.

    Of a pixel without a name it is the probability that its best name is wrong.
    """
    sure = np.where(labels.labels < 0, 1 - labels.scores, labels.scores)
    return image_message(np.rint(np.clip(sure, 0, 1) * 255).astype(np.uint8), header)


def label_info_message(
    names: Sequence[str], unlabelled: str, threshold: float, header: Any
) -> LabelInfo:
    """Return which value of the mask has which name.

    `unlabelled`: what pixels without a name are called, "" for leaving them out.
    """
    entries = [*enumerate(names), *([(UNLABELLED, unlabelled)] if unlabelled else [])]
    message = LabelInfo()
    message.header = header
    message.class_map = [VisionClass(class_id=value, class_name=name) for value, name in entries]
    message.threshold = float(threshold)
    return message


def detections_message(
    result: FrameResult, header: Any, class_ids: str = "number"
) -> Detection2DArray:
    """Return the masks' boxes with names and tracks.

    `id` is the track's number. A box's centre and size are in pixels, its edges between pixels.
    `class_id` is the name's value in the mask, or with "name" the name itself. The score is the
    name's probability, without names the mask's quality.
    """
    masks = result.masks
    scores = masks.confidences if masks.name_probabilities is None else masks.name_probabilities
    message = Detection2DArray()
    message.header = header
    for row, track in enumerate(result.tracks.tolist()):
        hypothesis = ObjectHypothesisWithPose()
        if masks.names is not None and masks.class_ids is not None:
            number = str(int(masks.class_ids[row]))
            hypothesis.hypothesis.class_id = masks.names[row] if class_ids == "name" else number
        hypothesis.hypothesis.score = float(np.nan_to_num(scores[row], nan=0.0))
        left, top, right, bottom = (float(edge) for edge in masks.boxes[row])
        detection = Detection2D()
        detection.header = header
        detection.id = str(track) if track >= 0 else ""
        detection.bbox.center.position.x = (left + right) / 2
        detection.bbox.center.position.y = (top + bottom) / 2
        detection.bbox.size_x = right - left
        detection.bbox.size_y = bottom - top
        detection.results = [hypothesis]
        message.detections.append(detection)
    return message
