"""Measures fqdnwall against what it stands beside, in one run, as ratios."""
