"""The record of a board: one signed file with all that a model costs on one machine."""
