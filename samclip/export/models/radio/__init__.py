"""C-RADIO: one plain ViT that was distilled from SAM, SigLIP 2 or CLIP, and DINO.

RADIO (Ranzinger et al., 2024, arXiv 2312.06709) and its later versions. The sizes, the names of
weights and the order of operations are facts of the published files; the code is our own.
"""
