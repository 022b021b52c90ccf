"""Tables of cells in the formats of other tools, and points from them."""
