"""Probes: protocols, features, heads and scores."""
