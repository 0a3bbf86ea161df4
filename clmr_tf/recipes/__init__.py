"""Recipes: files that describe published rows, and the commands that reproduce them."""
