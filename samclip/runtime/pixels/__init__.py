"""From an image in any form to the encoder's input, and the way back."""
