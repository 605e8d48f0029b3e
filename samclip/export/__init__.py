"""The torch side: checkpoints to bundles. Nothing outside `samclip.export` and `samclip.merge` imports torch."""
