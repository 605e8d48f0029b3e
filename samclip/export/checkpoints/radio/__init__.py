"""C-RADIO's checkpoints: the file, the teachers that it describes, and the weights of its trunk."""
