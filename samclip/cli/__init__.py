"""The `samclip` command, and what the other commands share with it.

Nothing heavy is imported at module level, so that `samclip --help` answers at once.
"""
