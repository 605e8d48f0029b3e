"""TensorRT and TensorRT for RTX, running plans. Building them is the matter of `engines.plans`."""
