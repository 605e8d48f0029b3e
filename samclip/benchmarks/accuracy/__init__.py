"""Accuracy of bundles on local folders of photos, measured through the public runtime."""
