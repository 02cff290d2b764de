"""The two pictures of the results page, as SVG that is the same to the byte for the same figures (matplotlib)."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from hybrid.routing.evaluation import Numbers, Reliability

STYLE = {
    "svg.hashsalt": "hybrid-pcc",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "figure.facecolor": "white",
}
COLOURS = {
    "our router": "#0060c0",
    "MiniLM classifier": "#c05000",
    "LiteLLM": "#808000",
    "prompt length": "#909090",
    "oracle": "#202020",
}


def cost_quality(file: Path, grid: Numbers, panels: Mapping[str, Mapping[str, Numbers]]) -> None:
    """Draw share sent against gap recovered, one panel for each title, one line for each router."""
    with mpl.rc_context(STYLE):
        _, axes = plt.subplots(1, len(panels), figsize=(11, 4.6), sharey=True, layout="constrained")
        for axis, (title, curves) in zip(axes, panels.items(), strict=True):
            axis.plot([0, 100], [0, 1], color="#c0c0c0", linestyle=":", label="random")
            for name, curve in curves.items():
                dashes = "--" if name == "oracle" else "-"
                width = 2.2 if name == "our router" else 1.3
                axis.plot(100 * grid, curve, color=COLOURS[name], linestyle=dashes, linewidth=width, label=name)
            _label(axis, title, "share of requests sent to the node, %", "")
            axis.legend(loc="lower right")
        axes[0].set_ylabel("share of the quality gap recovered")
        _save(file)


def diagram(file: Path, curves: Mapping[str, Reliability]) -> None:
    """Draw stated against observed probability; larger marks stand for more rows."""
    with mpl.rc_context(STYLE):
        _, axis = plt.subplots(figsize=(5.6, 5.2), layout="constrained")
        axis.plot([0, 1], [0, 1], color="#c0c0c0", linestyle=":", label="perfect")
        for colour, (name, bins) in zip(("#0060c0", "#c05000", "#00a0a0"), curves.items(), strict=False):
            label = f"{name}: ECE {bins.ece:.3f}"
            axis.plot(bins.stated, bins.observed, color=colour, linewidth=1, label=label)
            axis.scatter(
                bins.stated, bins.observed, s=8 + 400 * bins.counts / bins.counts.sum(), color=colour, alpha=0.5
            )
        _label(axis, "P(device adequate)", "stated", "observed")
        axis.legend(loc="upper left")
        _save(file)


def _label(axis: Axes, title: str, x: str, y: str) -> None:
    axis.set_title(title)
    axis.set_xlabel(x)
    if y:
        axis.set_ylabel(y)


def _save(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    plt.savefig(file, metadata={"Date": None, "Creator": None})
    plt.close()
