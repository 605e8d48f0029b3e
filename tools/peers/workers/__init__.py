"""Programs that run in environments without samclip: the loop, and one file for each peer."""
