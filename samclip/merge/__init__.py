"""The distillation recipe that makes merged checkpoints."""
