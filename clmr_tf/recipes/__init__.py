"""Published rows as files, and the commands that measure them again."""
