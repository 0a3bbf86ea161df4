"""Code that all corpora share, which turns source files into a prepared corpus."""
