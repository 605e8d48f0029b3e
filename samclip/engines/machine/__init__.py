"""Facts about this machine: its cores, memory, GPUs and Python, and a Jetson's set-up."""
