"""Bundles: finding, checking, reading and writing them."""
