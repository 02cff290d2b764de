"""How far back a command looks: ``--since 30d``."""

import re
import time
from collections.abc import Callable
from typing import Any

import click

UNITS_S = {"h": 3600, "d": 86_400, "w": 7 * 86_400}
_SPAN = re.compile(r"(\d{1,5})([hdw])")


def since_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``--since``; it becomes the Unix time then, None where it is not given."""
    words = "Only what was decided since then: 12h, 30d, 4w."
    return click.option("--since", metavar="SPAN", callback=_began, help=words)(command)


def _began(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    del ctx
    found = _SPAN.fullmatch(value) if value is not None else None
    if value is not None and found is None:
        message = f"{value!a} is no span of time; give hours, days or weeks, such as 12h, 30d or 4w"
        raise click.BadParameter(message, param=param)
    return time.time() - int(found[1]) * UNITS_S[found[2]] if found else None
