"""``pcc-server plan``: what a machine can serve before anything is bought or started."""

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from .errors import UNAVAILABLE_EXIT, StartFailure

if TYPE_CHECKING:
    from .plan import Plan

_SOME = click.FloatRange(min=0, min_open=True)
_NONE_OR_SOME = click.FloatRange(min=0)
_SHARE = click.FloatRange(min=0, min_open=True, max=1)
_COUNT = click.IntRange(min=1)


@click.command()
@click.option("--model", required=True, metavar="ID|PATH", help="A catalogue id, or a folder with config.json.")
@click.option("--memory", type=_SOME, required=True, metavar="GB", help="That models may use.")
@click.option("--bandwidth", type=_SOME, required=True, metavar="GB/S", help="Of that memory.")
@click.option("--flops", type=_SOME, required=True, metavar="TFLOPS", help="Of the accelerator, 16 bit; a CPU: 32 bit.")
@click.option("--f32", is_flag=True, help="Weights and contexts as 32-bit numbers, as this node has them on a CPU.")
@click.option("--people", type=_COUNT, default=10, show_default=True, metavar="N", help="To be served.")
@click.option("--prompt", type=_COUNT, default=1000, show_default=True, metavar="TOKENS", help="Of a usual request.")
@click.option("--answer", type=_COUNT, default=300, show_default=True, metavar="TOKENS", help="Of a usual answer.")
@click.option("--rate", type=_SOME, default=12.0, show_default=True, metavar="N", help="Requests of a person an hour.")
@click.option("--mfu", type=_SHARE, default=0.5, show_default=True, metavar="SHARE", help="Of flops, reading prompts.")
@click.option("--hardware-cost", type=_NONE_OR_SOME, default=0.0, metavar="SUM", help="Once, in any currency.")
@click.option("--months", type=_COUNT, default=36, show_default=True, metavar="N", help="Over which that is paid.")
@click.option("--power", type=_NONE_OR_SOME, default=0.0, metavar="WATTS", help="On the average.")
@click.option("--kwh", type=_NONE_OR_SOME, default=0.0, metavar="SUM", help="Price of a kilowatt hour.")
@click.option("--work", type=_NONE_OR_SOME, default=0.0, metavar="SUM", help="Of people, a month.")
@click.option("--use", type=_SHARE, default=0.3, show_default=True, metavar="SHARE", help="Of the month it is busy.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def plan(  # noqa: PLR0917 - click hands over by name
    model: str,
    memory: float,
    bandwidth: float,
    flops: float,
    f32: bool,
    people: int,
    prompt: int,
    answer: int,
    rate: float,
    mfu: float,
    hardware_cost: float,
    months: int,
    power: float,
    kwh: float,
    work: float,
    use: float,
    as_json: bool,
) -> None:
    """Say whether a model fits, how many people it serves at which latency, and what a million tokens cost.

    Exit codes: 0 it serves them, 2 a bad option, 4 it does not fit or does not serve so many.
    """
    from . import plan as planning

    try:
        traffic = planning.Traffic(people=people, prompt=prompt, answer=answer, rate=rate)
        machine = planning.Machine(memory=memory * 1e9, bandwidth=bandwidth * 1e9, flops=flops * 1e12, mfu=mfu)
        costs = planning.Costs(hardware=hardware_cost, months=months, power=power, kwh=kwh, work=work, use=use)
        made = planning.plan(planning.find_model(model, f32=f32), machine, traffic, costs)
    except StartFailure as failure:
        click.echo(f"pcc-server plan: {failure.message}", err=True)
        sys.exit(failure.exit_code)
    click.echo(json.dumps(made.to_dict()) if as_json else "\n".join(_table(made)))
    sys.exit(0 if made.fits and made.serves else UNAVAILABLE_EXIT)


def _table(made: "Plan") -> Iterator[str]:
    yield made.text
    room = f"{made.room_bytes / 1e9:.1f} GB"
    yield f"fits in {room}: {f'yes, {made.most_streams} streams at most' if made.fits else 'no'}"
    if made.levels:
        yield ""
        yield f"{'streams':>8}{'tokens/s':>11}{'planned':>14}{'each':>8}{'first token':>13}{'answer':>9}{'people':>8}"
    for one in made.levels:
        planned = "{:.0f}-{:.0f}".format(*one.planned_tps)
        yield (
            f"{one.streams:8}{one.tps:11.0f}{planned:>14}{one.each_tps:8.1f}{one.first_s:11.2f} s{one.answer_s:7.1f} s"
            f"{one.people:8}"
        )
    if made.levels:
        yield "tokens/s and each are ceilings; planned is 55 to 80 % of them, and times and people reckon with 55 %"
        yield ""
        yield _verdict(made)
    if made.cost_per_million:
        low, high = made.cost_per_million
        yield f"a million tokens cost {low:.2f} to {high:.2f}"


def _verdict(made: "Plan") -> str:
    if not made.serves:
        return f"{made.people} people are too many: {made.levels[-1].people} at most"
    level = next(one for one in made.levels if one.streams == made.streams)
    return (
        f"{made.people} people need {made.streams} streams: first token after {level.first_s:.1f} s, "
        f"an answer in {level.answer_s:.0f} s"
    )
