"""Corpora by name: one command each, `python -m pipelines.NAME`."""

from clmr_tf._import_path import leave_out_current_folder

leave_out_current_folder()
