"""Detections against annotations: matching, precision, recall, F1."""
