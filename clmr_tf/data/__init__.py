"""Prepared corpora, their tasks and labels, and tf.data over them."""
