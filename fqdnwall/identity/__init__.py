"""Numbers for sets of labels."""
