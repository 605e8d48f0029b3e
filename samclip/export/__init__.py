"""The torch side: checkpoints to bundles; only this package and `samclip.merge` import torch."""
