"""The models in training, behind one protocol."""
