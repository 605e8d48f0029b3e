"""What this machine is: its cores, memory, GPUs, Python, and whether it is a Jetson."""
