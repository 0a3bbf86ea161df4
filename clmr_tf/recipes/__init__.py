"""Published rows as files, and the commands that reproduce them."""
