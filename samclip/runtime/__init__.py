"""From a bundle and an image to answers, without torch."""
