"""What X-AnyLabeling 4.2.1 does with a model of the type segment_anything, written from its facts.

A photo is fitted into 684x1024 at the top left; the encoder gets it as float32; a prompt's points
are scaled alike and one padding point follows them; the decoder's first output is resized back.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import yaml
from numpy.typing import NDArray

HEIGHT, WIDTH = 684, 1024
NEEDED = ("type", "name", "display_name", "encoder_model_path", "decoder_model_path")
READ = ("input_size", "max_width", "max_height")


class Program:
    """The program with a model's YAML open."""

    def __init__(self, config: Path) -> None:
        self.config = yaml.safe_load(config.read_text("utf-8"))
        missing = [key for key in (*NEEDED, *READ) if key not in self.config]
        assert not missing, missing
        assert self.config["type"] == "segment_anything"
        self.encoder, self.decoder = (
            onnxruntime.InferenceSession(str(config.parent / self.config[f"{part}_model_path"]))
            for part in ("encoder", "decoder")
        )

    def encode(self, photo: NDArray[np.uint8]) -> NDArray[np.float32]:
        height, width = photo.shape[:2]
        self.factor = min(HEIGHT / height, WIDTH / width)
        self.size = (width, height)
        matrix = np.diag([self.factor, self.factor, 1.0])[:2]
        self.picture = cv2.warpAffine(photo, matrix, (WIDTH, HEIGHT))
        (only,) = self.encoder.get_inputs()
        return np.asarray(self.encoder.run(None, {only.name: self.picture.astype(np.float32)})[0])

    def segment(
        self, embedding: NDArray[np.float32], points: list[list[float]], labels: list[int]
    ) -> NDArray[np.bool_]:
        coords = np.asarray([*points, [0.0, 0.0]]) * self.factor
        feeds = {
            "image_embeddings": embedding,
            "point_coords": coords[None].astype(np.float32),
            "point_labels": np.asarray([[*labels, -1]], np.float32),
            "mask_input": np.zeros((1, 1, 256, 256), np.float32),
            "has_mask_input": np.zeros(1, np.float32),
            "orig_im_size": np.asarray([HEIGHT, WIDTH], np.float32),
        }
        assert {each.name for each in self.decoder.get_inputs()} == set(feeds)
        masks, *others = self.decoder.run(None, feeds)
        assert len(others) == 2 and masks.shape == (1, 1, HEIGHT, WIDTH)
        matrix = np.diag([1 / self.factor, 1 / self.factor, 1.0])[:2]
        return np.asarray(cv2.warpAffine(masks[0, 0], matrix, self.size) > 0)
