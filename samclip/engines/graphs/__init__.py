"""The checked reader of ONNX graphs: what no engine may see is refused here, by its bytes alone."""
