"""The only door to MLX: the fast BLAS first, compilation to C++ off on CPU, and what path this machine is on.

Order is everything on Linux: the wheel of MLX binds ``cblas_sgemm`` when it is loaded, so a fast library must already
be in the global symbol scope. Nothing happens at import; the first call of :func:`mlx` decides for the process.
Source: device design 7.
"""

import importlib
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, TypeVar

from . import attention, blas, heap
from .cores import usable_cores

Path = Literal["metal", "cuda", "cpu-openblas", "cpu-mkl", "cpu-slow"]

PROOF = (
    64,
    2048,
)  # rows and depth of the product that proves the library is used: deep, so that every one rounds its own way
PROOFS = 3  # a library that shares out its work anew may round anew
INSTALL_HINT = (
    "install OpenBLAS from your distribution (Debian and Ubuntu: apt install libopenblas0-pthread), "
    "or, on x86-64 without root: pip install mkl"
)
RELOAD_HINT = "let hybrid load MLX before anything else imports it, or start Python with LD_PRELOAD=libopenblas.so.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimePath:
    """Which path computes, and why.

    library: file of the fast BLAS, empty where none is used.  threads: of that library, 0 where none is used.
    faster_hint: what would make this machine faster, empty where nothing is known.
    """

    path: Path
    library: str = ""
    threads: int = 0
    why: str = ""
    faster_hint: str = ""


class ThreadGuard:
    """Remembers the thread that owns MLX objects and refuses every other one."""

    def __init__(self) -> None:
        self._owner = threading.get_ident()

    def check(self) -> None:
        """Raise RuntimeError when the caller is not the owner."""
        if threading.get_ident() != self._owner:
            raise RuntimeError("an MLX object was touched outside the engine's thread")


T = TypeVar("T")

_lock = threading.RLock()
_state: dict[str, Any] = {}


def mlx(*, threads: int | None = None) -> ModuleType:
    """Load the fast BLAS, then ``mlx.core``, and return it.

    threads: BLAS threads; ``None`` is one per usable core, minus one from four up. Only the first call decides.
    """
    with _lock:
        if "core" not in _state:
            _state["path"], _state["core"] = _load(threads)
        core: ModuleType = _state["core"]
        return core


def mlx_lm(name: str = "") -> ModuleType:
    """Load ``mlx_lm`` or one of its modules behind :func:`mlx`, unable to reach the network.

    The hub client reads its offline switch at import, so downloads belong in another process. ``mlx_lm`` also lowers
    the process's limit of open files for good when imported; that is kept from happening.
    """
    with _lock:
        mlx()
        for switch in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
            os.environ[switch] = "1"
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
        with _kept_file_limit():
            if "attention" not in _state and _state["path"].path.startswith("cpu"):
                _state["attention"] = attention.installed(_state["core"])
            return importlib.import_module(f"mlx_lm.{name}" if name else "mlx_lm")


def describe(*, threads: int | None = None) -> RuntimePath:
    """Say which path this process computes on; loads MLX, but no model."""
    with _lock:
        mlx(threads=threads)
        path: RuntimePath = _state["path"]
        return path


def _load(threads: int | None) -> tuple[RuntimePath, ModuleType]:
    first = "mlx.core" not in sys.modules
    library = _library(threads or _default_threads(), first=first)
    core = importlib.import_module("mlx.core")
    if core.default_device() != core.cpu:
        metal = core.metal.is_available()
        return RuntimePath(path="metal" if metal else "cuda", why="MLX computes on the accelerator"), core
    os.environ["MLX_DISABLE_COMPILE"] = "1"  # on CPU it compiles C++ into the shared temporary folder and loads it
    core.disable_compile()
    heap.keep_threshold()
    return _judge(core, library, first=first), core


def _library(threads: int, *, first: bool) -> blas.Library | None:
    if sys.platform != "linux":
        return None
    return blas.load(threads) if first else blas.present()


def _judge(core: ModuleType, library: blas.Library | None, *, first: bool) -> RuntimePath:
    if library is None and not first:
        return RuntimePath(path="cpu-slow", why="mlx was imported first", faster_hint=RELOAD_HINT)
    if library is None:
        why = "no fast BLAS was found; MLX uses the one it bundles"
        return RuntimePath(path="cpu-slow", why=why, faster_hint=INSTALL_HINT)
    if not _proved(core, library):
        why = f"{library.name} is loaded, but MLX does not use it"
        return RuntimePath(path="cpu-slow", library=library.name, why=why, faster_hint=RELOAD_HINT)
    return RuntimePath(
        path="cpu-mkl" if library.kind == "mkl" else "cpu-openblas",
        library=library.name,
        threads=library.threads(),
        why=f"{library.name} computes MLX's products",
    )


def _proved(core: ModuleType, library: blas.Library) -> bool:
    return apart(lambda: any(_same(core, library) for _ in range(PROOFS)), core=core, name="hybrid-proof")


def _same(core: ModuleType, library: blas.Library) -> bool:
    """Tell whether MLX's product has the library's very bits: the one MLX bundles differs in most of them."""
    rows, depth = PROOF
    noise = core.random.normal((2, rows * depth), key=core.random.key(0))
    left, right = noise[0].reshape(rows, depth), noise[1].reshape(depth, rows)
    core.eval(left, right, product := left @ right)
    return bytes(memoryview(product)) == library.product(memoryview(left), memoryview(right), depth)


def apart(work: Callable[[], T], *, core: ModuleType, name: str) -> T:
    """Do MLX work on a thread of its own and return its result; raises what the work raised.

    Its streams are freed at its end, since the caller's thread may end before the process does. What it allocated and
    freed leaves the holes in its own malloc arena, not in the caller's.
    """
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 - carried to the caller
            done.set_exception(error)
        core.clear_streams()

    thread = threading.Thread(target=run, name=name)
    thread.start()
    thread.join()
    return done.result()


def _default_threads() -> int:
    cores = usable_cores()
    return cores - 1 if cores >= 4 else cores  # noqa: PLR2004 - from four cores up one stays free for the program


class _kept_file_limit:  # noqa: N801 - reads as a statement
    """Keep an import from changing the limit of open files."""

    def __enter__(self) -> None:
        import resource

        self._module, self._real = resource, resource.setrlimit
        resource.setrlimit = lambda *_: None

    def __exit__(self, *_: object) -> None:
        self._module.setrlimit = self._real
