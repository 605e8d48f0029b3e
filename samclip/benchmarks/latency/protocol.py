"""How the figures of `samclip-bench latency` are defined."""

from samclip.benchmarks.latency.walk import ALL_STEPS, THREE_TASKS

PROTOCOL = (
    "Every sample is kept; medians stand with 95 % intervals from a bootstrap over rounds. A ratio "
    "is the median of the rounds' own ratios: both models were measured within each.",
    f"'{ALL_STEPS}': a photo's file is decoded, encoded, classified among 20 names, one point is "
    "segmented, and a coarse semantic map of 20 names made. Its stages add up to it, sample by "
    "sample; 'other' is what lies between them.",
    f"'{THREE_TASKS}': the encoder's graph and those three tasks, without decoding and resizing.",
    "A graph's time is that of its run, copies of inputs to a device included; a device is waited "
    "for. 'outputs to host' is the way back.",
    "The CLIP head runs once for each photo, in the first task that needs it: 'classify'. Names "
    "are embedded beforehand; 'embed 20 names' times that with a template that no cache has seen.",
    "'CV' compares rounds of the same photo, so that photos of different sizes are no noise.",
    "'cold' is the first photo of a fresh model, or of a new process; the files of the bundle are "
    "likely in the system's cache.",
)
