"""``python -m hybrid`` is ``hybrid``."""

from .cli import main

main()
