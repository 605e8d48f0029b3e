"""The command `samclip-bench`."""
