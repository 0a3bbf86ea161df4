"""Prepared corpora, their tasks and labels, and tf.data pipelines that read them."""
