"""Time and memory of a whole decision: recognisers and ``decide()``, from a text to a finished `Decision`.

Time: 400 prompts cut to 2,000 characters, 50 warm-up calls, 5 rounds, garbage collection on, one thread; also at 12 and
at 120 words. Every call has a screener of its own, so that no verdict is remembered. Memory: a child process that loads
the router and decides once, nothing else. Without ``shared/data`` the prompts are made up. How well scores rank is
measured by router.py.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from _rows import row
from _sets import DATA, read

from hybrid.routing.decide import decide
from hybrid.routing.labels import Labels, typed
from hybrid.routing.policy import Mode
from hybrid.routing.screen import Screener
from hybrid.routing.signals import Signals
from hybrid.weights import load_scorer
from hybrid.wire.types import GenerateRequest, Message, Role

SCORER = load_scorer(None)
PROMPTS, CHARS, WARM_UP, ROUNDS = 400, 2000, 50, 5
WORDS = (12, 120)
LIMIT_MS, LIMIT_MB = 1.0, 20.0
FILES = (
    "complex/arena_hard_v2.0.jsonl",
    "complex/gsm8k_train_questions.jsonl",
    "routing/llmrouter_dcrouter_train.jsonl",
    "routing/mmlu_pro_multi_model.jsonl",
    "routing/routellm_mmlu.jsonl",
    "routing/zeroeval_crux.jsonl",
)
MADE_UP = "Compare plan 3 with plan 4 step by step: costs (in $), risks, and what must be done by Friday?\n"
LOADED = """
import json, sys, tracemalloc
import psutil
traced = sys.argv[1] == "traced"
if traced:
    tracemalloc.start()
before = psutil.Process().memory_info().rss
from hybrid.routing.decide import decide
from hybrid.routing.labels import Labels, typed
from hybrid.routing.policy import Mode
from hybrid.routing.screen import Screener
from hybrid.routing.signals import Signals
from hybrid.weights import load_scorer
from hybrid.wire.types import GenerateRequest, Message, Role
scorer, text = load_scorer(None), "Plan a week in Rome, step by step; call me at +44 20 7946 0000."
request = GenerateRequest(messages=(Message(role=Role.USER, content=text),))
decision = decide(request, Labels((Screener().segment(typed(text)),)), Signals(), Mode.AUTO, scorer)
used = tracemalloc.get_traced_memory()[0] if traced else psutil.Process().memory_info().rss - before
print(json.dumps({"bytes": used, "mlx": "mlx" in sys.modules, "numpy": "numpy" in sys.modules}))
"""


def prompts() -> list[str]:
    """Return real prompts, spread evenly over the files; shorter ones repeat themselves up to the length."""
    texts = [MADE_UP] * PROMPTS
    if DATA.is_dir():
        texts = [r["prompt"] for name in FILES for r in read(name) if r["prompt"].strip()]
    step = max(1, len(texts) // PROMPTS)
    return [(t * (1 + CHARS // len(t)))[:CHARS] for t in texts[::step][:PROMPTS]]


def call(text: str) -> float:
    """Decide about a text and return the milliseconds."""
    screener = Screener()
    start = time.perf_counter_ns()
    labels = Labels((screener.segment(typed(text)),))
    request = GenerateRequest(messages=(Message(role=Role.USER, content=text),))
    decide(request, labels, Signals(), Mode.AUTO, SCORER)
    return (time.perf_counter_ns() - start) / 1e6


def percentiles(texts: Sequence[str], measure: Callable[[str], float] = call) -> dict[int, list[float]]:
    """Return the 50th, 95th and 99th percentile of each round."""
    for text in texts[:WARM_UP]:
        measure(text)
    rounds = [sorted(map(measure, texts)) for _ in range(ROUNDS)]
    return {p: [r[int(len(r) * p / 100)] for r in rounds] for p in (50, 95, 99)}


def medians(at: dict[int, list[float]]) -> dict[str, float]:
    return {f"p{p}_ms": round(statistics.median(values), 4) for p, values in at.items()}


def megabytes(how: str) -> float:
    """Return what a process holds once it has decided for the first time, in MB more than before it loaded anything."""
    done = subprocess.run([sys.executable, "-c", LOADED, how], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert not found["mlx"], "deciding loaded mlx"
    assert not found["numpy"], "deciding loaded numpy"
    return float(found["bytes"]) / 1e6


def main() -> None:
    texts = prompts()
    at = percentiles(texts)
    shorter = {f"{n}_words": medians(percentiles([" ".join(t.split()[:n]) for t in texts])) for n in WORDS}
    row(
        "whole decision, 2,000 characters, p95",
        ours=at[95],
        baseline=[LIMIT_MS] * ROUNDS,
        baseline_name="the limit of the routing design, Q7",
        unit="ms",
        smaller_is_better=True,
        **medians(at),
        **shorter,
        scorer=SCORER.name,
        prompts="developers' data" if DATA.is_dir() else "made up",
    )
    rss = [megabytes("resident") for _ in range(ROUNDS)]
    row(
        "router loaded and first decision made, resident memory",
        ours=rss,
        baseline=[LIMIT_MB] * ROUNDS,
        baseline_name="the limit of the issue",
        unit="MB",
        smaller_is_better=True,
        python_objects_mb=round(megabytes("traced"), 2),
        includes="every module that deciding loads; no mlx, no numpy",
    )


if __name__ == "__main__":
    main()
