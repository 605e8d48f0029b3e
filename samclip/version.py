"""The version of samclip, in one place."""

__version__ = "0.1.0"
