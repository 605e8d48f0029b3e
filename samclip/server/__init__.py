"""HTTP server of one bundle: JSON answers, scenes that stay encoded, a page to try them."""
