"""The cells pipeline: from a volume to a table of measured cells."""
