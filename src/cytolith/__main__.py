"""``python -m cytolith`` is the command line."""

from cytolith.cli import main

main()
