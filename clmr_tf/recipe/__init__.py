"""Recipes: published rows as files, and the commands that measure them anew."""
