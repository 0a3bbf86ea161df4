"""Model folders: SavedModel, weights, golden numbers, model card, LiteRT and ONNX files."""
