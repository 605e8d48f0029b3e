"""The colours of names and masks in pictures, chosen to look different from each other.

The 64 colours were found once by farthest-point selection: each is the one, among sRGB colours in
steps of 15, that is farthest from all before it. Distances are Euclidean in OKLab (Ottosson 2020),
the smallest over four kinds of sight: normal, and protanopia, deuteranopia and tritanopia simulated
by the matrices of Machado, Oliveira and Fernandes (2009) at severity 1, whose distances count 1.6
times. Colours that vanish on photos were left out: lightness below 0.45 or above 0.92, chroma below
0.08. The first eight are in the order in which the first few are farthest apart.

A difference of 0.02 is just noticeable. The first 8 colours are at least 0.22 apart for normal
sight and 0.14 for each of the three others, the first 16 0.13 and 0.075, all 64 0.05 and 0.03.
"""

from __future__ import annotations

Colour = tuple[int, int, int]
WHITE: Colour = (255, 255, 255)
DARK: Colour = (24, 24, 27)
NO_NAME: Colour = (190, 190, 196)  # in legends: pixels without a name
COLOURS = bytes.fromhex(
    "1ea5ff e1f000 961e4b 0000ff 878700 ff1ea5 ffa587 5affff"
    "780fb4 b4c3ff 1e8787 b4b400 875aff 965a3c 00d2c3 c38769"
    "c32dc3 a587d2 5a4b87 a5f0a5 ff5aff f0c34b d22d69 ff3c00"
    "784b00 87e1d2 d25a5a 874ba5 e187a5 3c5ae1 a569e1 78c369"
    "b4a5e1 5a1ed2 b40069 b469b4 78ff78 4ba578 c35a87 6969c3"
    "b40000 ff694b 872dff 69a53c b44b00 d2d287 87d2a5 1e6987"
    "963c3c b40f96 1e87e1 e169c3 96783c f0a5d2 69f0c3 ffe169"
    "d2a5ff 962db4 69e15a 874b78 c396c3 4bb496 a51ed2 c3e100"
)
COUNT = len(COLOURS) // 3


def colour(index: int) -> Colour:
    """Return the RGB colour of class or mask `index`; after 64 they repeat."""
    start = index % COUNT * 3
    return COLOURS[start], COLOURS[start + 1], COLOURS[start + 2]


def ink_on(background: Colour) -> Colour:
    """Return dark or white, whichever reads better on a colour (Rec. 601 luma)."""
    red, green, blue = background
    return DARK if 0.299 * red + 0.587 * green + 0.114 * blue > 150 else WHITE
