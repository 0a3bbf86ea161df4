"""Typed settings: from YAML and the command line, validated once."""
