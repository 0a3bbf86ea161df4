"""What all corpora share: from sources to a prepared corpus."""
