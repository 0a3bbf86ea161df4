"""What an exported SavedModel computes, from TensorFlow's own operations alone."""
