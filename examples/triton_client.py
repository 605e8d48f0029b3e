"""A client of a Triton server: one image is sent once, then named boxes are asked of it.

    samclip deploy triton samclip-tiny --to repository/
    python examples/triton_client.py street.jpg --box 10,20,200,240 --names car,bus

Needs `pip install tritonclient[grpc] numpy`, and neither samclip nor the model. All requests about
an image are one sequence, which Triton leads to the process that keeps the image's features.
"""

from __future__ import annotations

import argparse
import json
import secrets
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton

TYPES = {"uint8": "UINT8", "int32": "INT32", "float32": "FP32", "object": "BYTES"}


class Scene:
    """An image on the server, from the first request to the last, as a context."""

    def __init__(self, client: triton.InferenceServerClient, model: str, image: bytes) -> None:
        self._client, self._model = client, model
        # Sequences of all clients share these numbers: nobody hits another one's by chance.
        self._sequence = secrets.randbits(63) | 1
        self._ask({"image": np.frombuffer(image, np.uint8)}, ["size"], start=True)

    def ask(self, outputs: list[str], **tensors: np.ndarray) -> dict[str, np.ndarray]:
        """Ask a question about the image; return the outputs that the answer has."""
        return self._ask(tensors, outputs)

    def close(self) -> None:
        """Let the server forget the image, which it would do after some minutes too."""
        self._ask({}, ["size"], end=True)

    def _ask(
        self, tensors: dict[str, Any], outputs: list[str], start: bool = False, end: bool = False
    ) -> dict[str, np.ndarray]:
        inputs = []
        for name, array in tensors.items():
            given = triton.InferInput(name, list(array.shape), TYPES[array.dtype.name])
            given.set_data_from_numpy(array)
            inputs.append(given)
        answer = self._client.infer(
            self._model,
            inputs,
            outputs=[triton.InferRequestedOutput(name) for name in outputs],
            sequence_id=self._sequence,
            sequence_start=start,
            sequence_end=end,
        )
        found = {name: answer.as_numpy(name) for name in outputs}
        return {name: array for name, array in found.items() if array is not None}

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def texts(values: list[str]) -> np.ndarray:
    """Return texts as Triton takes them."""
    return np.array([value.encode() for value in values], np.object_)


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and print the name, score and area of each box's object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("image", type=Path)
    parser.add_argument("--box", action="append", required=True, metavar="X1,Y1,X2,Y2")
    parser.add_argument("--names", required=True, help="separated by commas")
    parser.add_argument("--model", default="samclip-tiny", help="the front model")
    parser.add_argument("--url", default="localhost:8001", help="the server's gRPC port")
    given = parser.parse_args(arguments)
    names = given.names.split(",")
    client = triton.InferenceServerClient(given.url)
    with Scene(client, given.model, given.image.read_bytes()) as scene:
        best = scene.ask(
            ["probabilities"],
            names=texts(names),
            options=texts([json.dumps({"task": "classify"})]),
        )["probabilities"]
        print(f"image: {names[int(best.argmax())]} ({best.max():.2f})")
        for box in given.box:
            corners = np.array([[float(number) for number in box.split(",")]], np.float32)
            found = scene.ask(["masks", "scores", "class_ids"], boxes=corners, names=texts(names))
            name, area = names[int(found["class_ids"][0])], int(found["masks"].sum())
            print(f"{box}: {name}, IoU {found['scores'][0]:.2f}, {area} pixels")


if __name__ == "__main__":
    main()
