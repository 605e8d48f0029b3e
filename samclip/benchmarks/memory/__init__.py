"""How much memory each stage of a fresh process takes, on the host, on the GPU and on disk."""
