"""What a policy means: parse, match names, select, resolve, explain. Pure Python."""
