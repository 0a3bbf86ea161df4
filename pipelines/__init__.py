"""Corpora by name: one command each, `python -m pipelines.NAME`."""

import clmr_tf  # noqa: F401 - removes the current folder from the import path
