"""Files that appear whole or not at all, locks, and the place of the cache."""
