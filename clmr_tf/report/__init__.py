"""Result files as tables and pictures."""
