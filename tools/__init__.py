"""Programs for work on samclip itself, run from a checkout; none of them is installed."""
