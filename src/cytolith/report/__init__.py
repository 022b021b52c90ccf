"""One self-contained HTML page from the folder of a run."""
