"""Audio files to samples: found, decoded, mixed, resampled, cut into windows."""
