"""One HTML file of reports: self-contained, read on a phone as on a screen, plots drawn as SVG."""
