"""Runs ``pcc-server`` with other patience in its launcher: so that tests see in seconds what takes minutes.

``hardy.py [MODULE.NAME=NUMBER | FAULT]… serve …``: constants of ``pcc_server`` modules; FAULT is the control of a
detector: ``forgetful`` (a new worker numbers its directories from 0), ``leaky`` (what ended is never let go of).
"""

import importlib
import sys
from typing import Any

from pcc_server.launcher import Launcher
from pcc_server.process import Child


def _forgetful() -> None:
    def forget(_self: Launcher) -> list[list[int]]:
        return []

    Launcher._after = property(forget, lambda _self, _value: None)  # type: ignore[assignment]


def _leaky() -> None:
    kept: list[tuple[Any, bytearray]] = []

    def keep(child: Child) -> None:
        kept.append((child, bytearray(4 << 20)))

    Child.close = keep  # type: ignore[method-assign, assignment]


FAULTS = {"forgetful": _forgetful, "leaky": _leaky}


if __name__ == "__main__":
    from pcc_server.cli import main

    while sys.argv[1] != "serve":
        name, _, value = sys.argv.pop(1).partition("=")
        if name in FAULTS:
            FAULTS[name]()
        else:
            module, _, constant = name.partition(".")
            setattr(importlib.import_module(f"pcc_server.{module}"), constant, float(value))
    main()
