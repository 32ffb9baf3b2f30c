"""TensorRT engines: what is asked for, building, the cache that keeps them, loading and testing.

Needs tensorrt and pycuda only where an engine is built, loaded or run; never torch or onnx.
"""
