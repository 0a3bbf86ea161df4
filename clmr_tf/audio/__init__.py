"""From audio files to samples: finding, decoding, mixing, resampling, cutting into windows."""
