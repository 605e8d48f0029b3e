"""EfficientNet-Lite, an image recogniser whose features serve as a shared backbone.

EfficientNet (Tan & Le, arXiv 1905.11946, table 1 and section 3.3) in its Lite form: no squeeze and
excitation, ReLU6 instead of swish, and a stem and a head that keep their size in every scaling.
The weights were trained in TensorFlow, hence its SAME padding and its batch-norm epsilon.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from samclip.errors import InputError
from samclip.export.models.norms import ConvNorm

BN_EPS = 1e-3
STEM_CHANNELS = 32
HEAD_CHANNELS = 1280
CLASSES = 1000  # of ImageNet-1k
CHANNEL_STEP = 8  # scaled widths are rounded to multiples of this

# The input that the recogniser was trained on: RGB in [0, 255], as (x - mean) / std.
RECOGNISER_MEAN = (127.0, 127.0, 127.0)
RECOGNISER_STD = (128.0, 128.0, 128.0)


@dataclass(frozen=True)
class LiteStage:
    """`depth` blocks to `width` channels; the first has the `stride`, all `kernel_size` squared."""

    depth: int
    width: int
    kernel_size: int
    stride: int
    expand_ratio: int = 6


# Table 1 of the paper: EfficientNet-B0, which is also Lite0.
BASE_STAGES = (
    LiteStage(depth=1, width=16, kernel_size=3, stride=1, expand_ratio=1),
    LiteStage(depth=2, width=24, kernel_size=3, stride=2),
    LiteStage(depth=2, width=40, kernel_size=5, stride=2),
    LiteStage(depth=3, width=80, kernel_size=3, stride=2),
    LiteStage(depth=3, width=112, kernel_size=5, stride=1),
    LiteStage(depth=4, width=192, kernel_size=5, stride=2),
    LiteStage(depth=1, width=320, kernel_size=3, stride=1),
)


@dataclass(frozen=True)
class EfficientNetLiteConfig:
    """A compound scaling (section 3.3): factors of the base's `width` and `depth`.

    `image_size` in pixels is the square size that the recogniser was trained at; any other runs.
    """

    width: float = 1.0
    depth: float = 1.0
    image_size: int = 224

    @property
    def stages(self) -> tuple[LiteStage, ...]:
        """The scaled stages; the first and the last keep their depth."""
        last = len(BASE_STAGES) - 1
        return tuple(
            LiteStage(
                stage.depth if index in (0, last) else math.ceil(stage.depth * self.depth),
                _scaled_width(stage.width, self.width),
                stage.kernel_size,
                stage.stride,
                stage.expand_ratio,
            )
            for index, stage in enumerate(BASE_STAGES)
        )

    @property
    def channels(self) -> tuple[int, int, int, int, int]:
        """Channels of the feature maps at strides 2, 4, 8, 16 and 32."""
        widths = [stage.width for stage in self.stages]
        return STEM_CHANNELS, widths[1], widths[2], widths[4], widths[6]


LITE0 = EfficientNetLiteConfig()
LITE1 = EfficientNetLiteConfig(width=1.0, depth=1.1, image_size=240)
LITE2 = EfficientNetLiteConfig(width=1.1, depth=1.2, image_size=260)
LITE3 = EfficientNetLiteConfig(width=1.2, depth=1.4, image_size=280)
LITE4 = EfficientNetLiteConfig(width=1.4, depth=1.8, image_size=300)


class LiteFeatures(NamedTuple):
    """Feature maps BxCxH/sxW/s at strides s of 2 to 32: 32, 24, 48, 120, 352 wide in Lite2.

    The map at stride 2 is the stem's, behind its ReLU6.
    """

    stride2: Tensor
    stride4: Tensor
    stride8: Tensor
    stride16: Tensor
    stride32: Tensor


class LiteBlock(nn.Module):
    """Inverted bottleneck: 1x1 up (none at ratio 1), depthwise at the stride, 1x1 down.

    The input is added where the shape stays. `expand`, `depthwise` and `project` are the three.
    """

    def __init__(self, in_width: int, stage: LiteStage, stride: int) -> None:
        super().__init__()
        hidden = in_width * stage.expand_ratio
        self.residual = stride == 1 and in_width == stage.width
        expands = stage.expand_ratio != 1
        self.expand = ConvNorm(in_width, hidden, eps=BN_EPS) if expands else None
        self.depthwise = ConvNorm(
            hidden, hidden, stage.kernel_size, stride, groups=hidden, eps=BN_EPS, same=True
        )
        self.project = ConvNorm(hidden, stage.width, eps=BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Map BxCxHxW features to BxC'xH/sxW/s ones."""
        wide = x if self.expand is None else F.relu6(self.expand(x))
        y: Tensor = self.project(F.relu6(self.depthwise(wide)))
        return x + y if self.residual else y


class RecogniserHead(nn.Module):
    """The classifier on the stride-32 map: 1x1 convolution, ReLU6, average, linear layer."""

    def __init__(self, in_channels: int, classes: int = CLASSES) -> None:
        super().__init__()
        self.conv = ConvNorm(in_channels, HEAD_CHANNELS, eps=BN_EPS)
        self.classifier = nn.Linear(HEAD_CHANNELS, classes)

    def features(self, stride32: Tensor) -> Tensor:
        """Widen the stride-32 map, BxCxHxW, to Bx1280xHxW, not negative."""
        return F.relu6(self.conv(stride32))

    def forward(self, stride32: Tensor) -> Tensor:
        """Classify images by their stride-32 maps, BxCxHxW: logits Bx1000."""
        logits: Tensor = self.classifier(self.features(stride32).mean(dim=(2, 3)))
        return logits


class EfficientNetLite(nn.Module):
    """The trunk, with the classifier on top of it if `head`; weights are random until loaded."""

    def __init__(self, config: EfficientNetLiteConfig = LITE2, head: bool = False) -> None:
        super().__init__()
        self.config = config
        self.channels = config.channels
        self.stem = ConvNorm(3, STEM_CHANNELS, 3, stride=2, eps=BN_EPS, same=True)
        self.blocks = nn.ModuleList(_blocks(config))
        self.taps = _taps(config)
        self.head = RecogniserHead(self.channels[-1]) if head else None

    def forward(self, image: Tensor) -> LiteFeatures:
        """Map a float32 RGB image Bx3xHxW, (x - 127) / 128 of [0, 255], to its feature maps.

        Any size runs; the maps of sizes that are not multiples of 32 are rounded up.
        """
        x = F.relu6(self.stem(image))
        maps: list[Tensor] = [x]
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.taps:
                maps.append(x)
        return LiteFeatures(*maps)

    def classify(self, image: Tensor) -> Tensor:
        """Classify images Bx3xHxW as `forward` takes them: logits Bx1000 in class order.

        Raises InputError when the network was made without its head.
        """
        if self.head is None:
            raise InputError(
                "this EfficientNetLite has no classifier; make it with head=True to classify"
            )
        logits: Tensor = self.head(self(image).stride32)
        return logits


def _blocks(config: EfficientNetLiteConfig) -> list[LiteBlock]:
    """Make the blocks of every stage in order."""
    blocks, width = [], STEM_CHANNELS
    for stage in config.stages:
        for index in range(stage.depth):
            blocks.append(LiteBlock(width, stage, stage.stride if index == 0 else 1))
            width = stage.width
    return blocks


def _taps(config: EfficientNetLiteConfig) -> tuple[int, ...]:
    """Return the indices of the last blocks at strides 4, 8, 16 and 32."""
    ends = [sum(s.depth for s in config.stages[: i + 1]) - 1 for i in range(len(config.stages))]
    return ends[1], ends[2], ends[4], ends[6]


def _scaled_width(width: int, factor: float) -> int:
    """Scale a width, rounded to a multiple of 8 that is at most a tenth below."""
    scaled = width * factor
    rounded = max(CHANNEL_STEP, int(scaled + CHANNEL_STEP / 2) // CHANNEL_STEP * CHANNEL_STEP)
    return rounded + CHANNEL_STEP if rounded < 0.9 * scaled else rounded
