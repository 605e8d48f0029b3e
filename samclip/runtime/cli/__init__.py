"""The `samclip` command: one module per concept, the commands under their own names.

Nothing heavy is imported at module level, so that `samclip --help` answers at once.
"""
