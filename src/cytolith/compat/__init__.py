"""The call signatures of other programs on top of the pipelines, so that a script of theirs changes one import."""
