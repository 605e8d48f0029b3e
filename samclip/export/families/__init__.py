"""Model families: how the checkpoints of each become one exportable model."""
