"""The documentation site: pages staged for Zensical, built strictly, and checked as HTML."""
