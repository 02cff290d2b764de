"""``python -m pcc_server``: the same as ``pcc-server``."""

from .cli import main

main()
