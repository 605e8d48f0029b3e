"""The tasks of a scene: classify, segment, name, semantic, everything."""
