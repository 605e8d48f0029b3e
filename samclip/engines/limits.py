"""The most that one run of a graph gets: the runtime sends no more, and plans are built for it."""

from __future__ import annotations

from typing import Final

MAX_PROMPTS: Final = 16  # of the mask decoder, whose memory grows with them, its speed hardly
# Of the mask decoder on a CPU: as fast as 16, and its memory is an eighth.
MAX_HOST_PROMPTS: Final = 2
# With masks, where a backend keeps what a run worked in: as fast as 2, and 39 MiB less.
MAX_HOST_MASKS: Final = 1
PROMPTS_PER_BATCH: Final = 64  # texts of the text encoder: names filled into templates
# Of the classifiers of regions: memory grows with regions, and with regions times texts.
MAX_REGIONS: Final = 16
MAX_TEXTS: Final = 32_768  # 22,000 names are one run
# Of one prompt, and of a batch of two or more: memory grows with prompts and tokens, its largest
# part with the square of a prompt's tokens.
MAX_POINTS: Final = 4096
MAX_TOKENS: Final = 512
# Pixels along a side of a photo whose masks a graph upscales: memory grows with the area.
MAX_PHOTO_SIDE: Final = 8192
# Of CLIP's image tower: crops of one photo; memory grows with them.
MAX_CROPS: Final = 16
# Coordinates of a region's box, in pixels of the input, on either side of 0: classifiers sample a
# box as finely as the map, so that time grows with its area.
MAX_REGION: Final = 8192
