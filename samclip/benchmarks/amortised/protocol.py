"""How the amortised table is defined."""

from samclip.benchmarks.amortised.ways import DENSE, MERGED, WHOLE

PROTOCOL = (
    "Three tasks: 20 names for the photo, a coarse semantic map of 20 names, and 1, 10 or 100 "
    "points, each a prompt of its own. Decoding of the file is not counted, resizing is.",
    f"'{MERGED}': one encoder pass of one bundle, its CLIP head and mask decoder.",
    f"'{WHOLE}': SAM's pass and masks, and CLIP's vision encoder on the photo at 224 px, which "
    "gives names for the whole photo and no map: it does less.",
    f"'{DENSE}': SAM's pass and masks, and CLIP's vision encoder at 1024 px (1022 px for patches "
    "of 14), whose tokens give names and the map.",
    "CLIP's vision encoder has its full size and RANDOM weights: its time is that of a trained "
    "one, its answers mean nothing. On ONNX Runtime it uses the fused attention operator.",
    "Both ways apart share one measured pass of SAM in each round. Seconds of a way are the sum of "
    "its parts within one round; a ratio is the median of the rounds' own ratios.",
    "Parameters and multiply-accumulates are counted from the ONNX graphs; parameters are those of "
    "vision encoders and CLIP heads, the mask decoder left out, which all ways have.",
)
