"""Bundles: finding, checking, reading, signing and writing them."""
