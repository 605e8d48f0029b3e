"""Streams of frames: cameras, videos and addresses, answered frame by frame, with tracks."""
