"""The fracture pipeline: clusters of a binary stack, its aperture and its offset."""
