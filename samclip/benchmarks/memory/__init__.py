"""Memory of each stage of a fresh process: on the host, on the GPU and on disk."""
