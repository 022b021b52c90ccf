"""Speed of cytolith beside the libraries that it replaces, in one run, as ratios."""
