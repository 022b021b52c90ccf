"""Parameters of the cells pipeline for annotated cells: what is tried, how it is scored, and when it is believed."""
