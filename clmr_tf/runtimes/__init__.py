"""An exported model as files for other runtimes: LiteRT (TensorFlow Lite) and ONNX."""
