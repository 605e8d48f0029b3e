"""Files that appear whole or not at all, locks, and the user's folders and files."""
