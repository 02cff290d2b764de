"""What a machine can serve: does a model fit, how many people at which latency, what does a million tokens cost.

Arithmetic over numbers that a person knows or looks up; nothing is loaded or measured. Memory is ``device.fit``'s.
Speeds are ceilings, set by what must be read from memory for each step; published single streams reach 56 to 78 % of
them, so plans count on 55 to 80 % and what people are promised on the lower end. Source: node design 3.14.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from device import fit
from device.catalog import Entry, catalog
from device.errors import DeviceError

from .engines import Load
from .errors import CONFIG_EXIT, StartFailure

PLANNED_LOW, PLANNED_HIGH = 0.55, 0.80  # of a ceiling
F16, F32 = 2, 4  # bytes of one number
MONTH_S = 2.63e6
MONTH_H = MONTH_S / 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What planning needs of a model, as it will lie in memory.

    shared: weights that every token reads.  experts: those of all experts together, of which a token uses
    ``used`` of ``count``.  bytes_per_weight: with scales.  kv_token_bytes: of one token of context.
    """

    id: str
    shared: int
    experts: int = 0
    count: int = 0
    used: int = 0
    bytes_per_weight: float = fit.PACKED_BITS / 8
    kv_token_bytes: int
    context_tokens: int

    @property
    def weights_bytes(self) -> int:
        """All weights in memory."""
        return int((self.shared + self.experts) * self.bytes_per_weight)

    @property
    def active(self) -> int:
        """Weights that one token goes through."""
        return self.shared + (self.experts * self.used // self.count if self.count else 0)

    def read_bytes(self, streams: int) -> float:
        """Bytes of weights that one step of so many streams reads; experts taken to be chosen evenly."""
        touched = 1 - (1 - self.used / self.count) ** streams if self.count else 0.0
        return (self.shared + self.experts * touched) * self.bytes_per_weight

    @classmethod
    def from_config(cls, model_id: str, config: Mapping[str, Any], *, packed_bytes: int = 0, f32: bool = False) -> Self:
        """Read a ``config.json``. packed_bytes: of its weight files; 0: 4.5 bits a weight.  f32: the path on a CPU.

        Raises KeyError for a missing key, ValueError where nothing tells how many weights there are.
        """
        shape, flat = fit.shape_of(config), {**config, **config.get("text_config", {})}
        shared, experts = _weights(flat, shape)
        if not shared:
            shared = math.ceil(packed_bytes * 8 / fit.PACKED_BITS)
        if not shared:
            raise ValueError("its config.json tells no number of weights, and no weights lie beside it")
        each = F32 if f32 else packed_bytes / (shared + experts) if packed_bytes else fit.PACKED_BITS / 8
        return cls(
            id=model_id,
            shared=shared,
            experts=experts,
            count=int(flat.get("num_experts") or 0),
            used=int(flat.get("num_experts_per_tok") or 0) if experts else 0,
            bytes_per_weight=each,
            kv_token_bytes=shape.kv_token_bytes(F32 if f32 else F16),
            context_tokens=shape.context_tokens,
        )

    @classmethod
    def from_catalog(cls, entry: Entry, *, f32: bool = False) -> Self:
        """Take the catalogue's numbers, which know no experts."""
        return cls(
            id=entry.id,
            shared=entry.params,
            bytes_per_weight=F32 if f32 else entry.size_bytes / entry.params,
            kv_token_bytes=entry.kv_bytes_per_token * (2 if f32 else 1),
            context_tokens=entry.context_tokens,
        )


def _weights(flat: Mapping[str, Any], shape: fit.Shape) -> tuple[int, int]:
    """Count shared weights and those of experts; (0, 0) where the configuration does not tell."""
    count, inner = int(flat.get("num_experts") or 0), int(flat.get("moe_intermediate_size") or 0)
    if not (count and inner):
        return shape.params, 0
    hidden, heads = int(flat["hidden_size"]), int(flat["num_attention_heads"])
    block = 2 * hidden * shape.head_dim * (heads + shape.kv_heads) + hidden * count + 2 * hidden
    tables = 1 if flat.get("tie_word_embeddings", True) else 2
    shared = shape.layers * block + tables * int(flat["vocab_size"]) * hidden + hidden
    return shared, shape.layers * count * 3 * hidden * inner


def read_folder(folder: Path, *, f32: bool = False) -> Model:
    """Read a model folder's configuration and sizes. Raises OSError, ValueError, KeyError for one of no use."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    packed = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return Model.from_config(folder.name, config, packed_bytes=packed, f32=f32)


def find_model(name: str, *, f32: bool = False) -> Model:
    """Return a model by its folder or its catalogue id. Raises StartFailure with exit code 2."""
    folder = Path(name)
    try:
        return read_folder(folder, f32=f32) if folder.is_dir() else _from_catalog(name, f32=f32)
    except KeyError as error:
        raise StartFailure(f"the config.json in {name} lacks {error}", CONFIG_EXIT) from None
    except (OSError, ValueError) as error:
        raise StartFailure(f"cannot plan with {name}: {error}", CONFIG_EXIT) from None
    except DeviceError as error:
        raise StartFailure(f"{error}; see what there is with: hybrid list", CONFIG_EXIT) from None


def _from_catalog(name: str, *, f32: bool) -> Model:
    entry = catalog().find(name)
    if entry.role != "chat":
        raise StartFailure(f"{entry.id} answers nothing: it is for {entry.role}ding", CONFIG_EXIT)
    return Model.from_catalog(entry, f32=f32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A computer. memory: bytes that models may use.  bandwidth: bytes a second.  flops: a second, at full precision.

    mfu: the share of flops that reading prompts reaches.
    """

    memory: float
    bandwidth: float
    flops: float
    mfu: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What people do. prompt, answer: tokens of a usual request.  rate: requests of one person an hour."""

    people: int = 10
    prompt: int = 1_000
    answer: int = 300
    rate: float = 12.0

    @property
    def width(self) -> int:
        """Tokens of a context at its end."""
        return self.prompt + self.answer

    def arrivals_s(self, people: float) -> float:
        """Return the requests a second of so many people."""
        return people * self.rate / 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What running it costs, in one currency. hardware: once, over ``months``.  power: watts.  kwh: price of one.

    work: a month.  use: share of the month in which the machine is busy.
    """

    hardware: float = 0.0
    months: int = 36
    power: float = 0.0
    kwh: float = 0.0
    work: float = 0.0
    use: float = 0.3

    @property
    def month(self) -> float:
        """All of it, a month."""
        return self.hardware / self.months + self.power / 1000 * MONTH_H * self.kwh + self.work

    def per_million(self, tps: float) -> float:
        """Cost of a million tokens of answers at so many a second."""
        return self.month / (tps * self.use * MONTH_S) * 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """What so many streams side by side give. Tokens a second are ceilings; ``planned`` reckons with the low end.

    first_s: until the first token, on an idle machine.  answer_s: a whole answer, planned.  people: that many, planned.
    """

    streams: int
    tps: float
    each_tps: float
    planned_tps: tuple[float, float]
    first_s: float
    answer_s: float
    people: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The three answers. streams: rows the people need, 0 where no number of them is enough."""

    model: str
    need_bytes: int
    room_bytes: int
    fits: bool
    text: str
    most_streams: int
    people: int
    streams: int
    serves: bool
    levels: tuple[Level, ...]
    cost_per_million: tuple[float, float] | None

    def to_dict(self) -> dict[str, Any]:
        """Return it for ``--json``."""
        return asdict(self)


def step_s(model: Model, machine: Machine, streams: int, width: int) -> float:
    """Seconds of one step of decoding at least: all that must be read, or computed, for one token of each stream."""
    reading = (model.read_bytes(streams) + streams * width * model.kv_token_bytes) / machine.bandwidth
    return max(reading, streams * 2 * model.active / machine.flops)


def prefill_tps(model: Model, machine: Machine) -> float:
    """Tokens of prompts a second."""
    return machine.flops * machine.mfu / (2 * model.active)


def level(model: Model, machine: Machine, traffic: Traffic, streams: int) -> Level:
    """Say what so many streams give. Their prompts take their share of the time too."""
    step = step_s(model, machine, streams, traffic.width)
    reading_s = traffic.prompt / prefill_tps(model, machine)
    answer_s = (
        traffic.answer * step / PLANNED_LOW + streams * reading_s
    )  # each waits while the others' prompts are read
    tps = streams / step
    return Level(
        streams=streams,
        tps=tps,
        each_tps=1 / step,
        planned_tps=(PLANNED_LOW * tps, PLANNED_HIGH * tps),
        first_s=reading_s + step / PLANNED_LOW,
        answer_s=answer_s,
        people=int(streams / answer_s / traffic.arrivals_s(1)),
    )


def most_streams(model: Model, machine: Machine, traffic: Traffic) -> int:
    """Return how many contexts of this width fit beside the weights."""
    without = _need(model, traffic, rows=0).total
    each = fit.kv_bytes(rows=1, tokens=traffic.width, kv_token_bytes=model.kv_token_bytes)
    return max(0, int((fit.SOFT * machine.memory - without) // each))


def _need(model: Model, traffic: Traffic, *, rows: int) -> fit.Need:
    return fit.need(
        weights_bytes=model.weights_bytes,
        kv_token_bytes=model.kv_token_bytes,
        context_tokens=traffic.width,
        rows=rows,
    )


def plan(model: Model, machine: Machine, traffic: Traffic, costs: Costs | None = None) -> Plan:
    """Answer the three questions. costs: None, or nothing in them: no cost is told."""
    most = most_streams(model, machine, traffic)
    levels = [level(model, machine, traffic, streams) for streams in _steps(most)]
    enough = next((one for one in levels if one.people >= traffic.people), None)
    fitted = fit.fits(
        model_id=model.id,
        weights_bytes=model.weights_bytes,
        kv_token_bytes=model.kv_token_bytes,
        context_tokens=traffic.width,
        room_bytes=int(machine.memory),
        rows=enough.streams if enough else max(1, most),
    )
    busiest = enough or (levels[-1] if levels else None)
    return Plan(
        model=model.id,
        need_bytes=fitted.need_bytes,
        room_bytes=fitted.room_bytes,
        fits=most > 0,
        text=fitted.text,
        most_streams=most,
        people=traffic.people,
        streams=enough.streams if enough else 0,
        serves=enough is not None,
        levels=tuple(levels),
        cost_per_million=_cost(costs, busiest) if costs and costs.month and busiest else None,
    )


def _cost(costs: Costs, busiest: Level) -> tuple[float, float]:
    low, high = busiest.planned_tps
    return costs.per_million(high), costs.per_million(low)


def _steps(most: int) -> Iterable[int]:
    """Yield 1, 2, 4 and so on, and the most."""
    streams = 1
    while streams < most:
        yield streams
        streams *= 2
    if most:
        yield most


def beside(model: Model, load: Load) -> dict[str, int]:
    """Return what was predicted beside what an engine measures: bytes of one token of context, and memory."""
    reserve = fit.need(weights_bytes=model.weights_bytes, kv_token_bytes=0, context_tokens=0).reserve
    return {
        "kv_predicted": model.kv_token_bytes,
        "kv_measured": load.kv_token_bytes,
        "mb_predicted": (model.weights_bytes + reserve) // 10**6,
        "mb_measured": load.memory_bytes // 10**6,
    }
