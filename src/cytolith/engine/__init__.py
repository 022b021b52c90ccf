"""From one block to a whole volume; knows no science."""
