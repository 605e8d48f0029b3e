"""How right a bundle is, measured through the public runtime on local folders."""
