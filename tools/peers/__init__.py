"""Other ways to run the same models, each in an environment of its own, in the same run."""
