"""What a scene answers: classify, segment, semantic, everything."""
