"""Typed settings, read from YAML and the command line and validated once."""
