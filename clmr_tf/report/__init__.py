"""Turns result files into tables and pictures."""
