"""How the figures of `samclip-bench roofline` are defined."""

PROTOCOL = (
    "A multiply-accumulate (MAC) is two operations. Those of matrix products, convolutions and "
    "attention are counted from the ONNX graph at the shapes that were run; norms, activations "
    "and additions are not.",
    "'weights': constants that are read, as they are held after loading. 'moved': what nodes read "
    "and write beside them, if each went to memory; engines fuse nodes and have caches.",
    "'reached': the time of the products at the machine's best rate, INT8 products at that of "
    "INT8, divided by the median time of the graph; 'best run': by the shortest.",
    "'if memory alone': the time of 'weights' and 'moved' at the rate of copies. Where it is as "
    "long as the products, unfused steps wait for memory.",
    "Rates are the best of several runs, taken in turn: other work on the machine makes them "
    "smaller, and 'reached' larger.",
)
