"""Corpora by name: one command each, `python -m pipelines.NAME`."""

# It also takes the current folder out of the import path.
import clmr_tf  # noqa: F401
