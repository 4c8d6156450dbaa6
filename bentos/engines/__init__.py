"""The model in ONNX Runtime.

engine   the session, as it is judged, scored and served
shapes   the tensor shapes that a plan can ask for
device   the session that a plan asks for; padded batches, CUDA graphs
buffers  tensors at fixed addresses on a device, and the binding that runs on them
gpu      the CUDA provider's options and its share of memory
"""
