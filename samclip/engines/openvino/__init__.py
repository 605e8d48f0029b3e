"""OpenVINO: compiled models on the CPU."""
