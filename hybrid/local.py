"""The only door to the on-device runtime: checks that it is ours, loads it late, maps its errors.

Everything that touches models, personal files or the machine's sensors goes through here. Importing this module loads
nothing of it.
"""

import contextlib
import importlib
import importlib.util
import os
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar, Self

from .errors import (
    ConfigurationError,
    ContextOverflowError,
    GenerationError,
    HybridError,
    OverloadedError,
    UnavailableError,
)

if TYPE_CHECKING:
    from device.errors import DeviceError
    from device.runtime import RuntimePath
    from device.store import Installed, Store

    from .wire.types import Chunk, Engine, GenerateRequest, Sampling

BESIDE = Path(__file__).resolve().parent.parent
NO_ENGINE = "the on-device engine is not installed: mlx is missing"
REINSTALL = "python -m pip install --force-reinstall hybrid-pcc"


def part(name: str) -> ModuleType:
    """Import ``device.<name>``, after making sure that ``device`` is ours.

    Raises ConfigurationError naming the file when a foreign ``device`` module shadows it; that file is not executed.
    """
    _check_owner()
    return importlib.import_module(f"device.{name}")


def _check_owner() -> None:
    if "device" in sys.modules:
        origin = getattr(sys.modules["device"], "__file__", None)
    else:
        spec = importlib.util.find_spec("device")
        origin = spec.origin if spec else None
    if origin is None or Path(origin).resolve() != BESIDE / "device" / "__init__.py":
        raise ConfigurationError(
            f"a module named 'device' stands before the one of hybrid-pcc: {origin or 'a folder without __init__.py'}",
            hint="rename that file or start Python from another folder",
        )
    if not hasattr(importlib.import_module("device"), "HYBRID_PCC_DEVICE"):
        raise ConfigurationError(f"{origin} is not the device package of hybrid-pcc", hint="reinstall hybrid-pcc")


@contextlib.contextmanager
def mapped() -> Iterator[None]:
    """Turn every error of the device floor that passes here into one of the public tree."""
    try:
        yield
    except Exception as error:
        floor = sys.modules.get("device.errors")  # what was never loaded can't have raised
        if floor is None or not isinstance(error, floor.DeviceError):
            raise
        raise public_error(error) from None  # the cause could hold content


def public_error(error: "DeviceError") -> HybridError:
    """Return the one public error that a device error means."""
    errors = part("errors")
    for kind, make in ROWS.items():
        if isinstance(error, getattr(errors, kind)):
            return make(error)
    raise error  # a new leaf without a row: tests/test_errors.py keeps this unreachable


def _unavailable(reason: str, hint: str = "") -> "_Maker":
    return lambda error: UnavailableError(str(error), reason=reason, hint=hint)


def _missing(error: "DeviceError") -> HybridError:
    model_id, size = getattr(error, "model_id", ""), getattr(error, "size_bytes", None)
    fetches = f"; fetching it takes {size / 1e6:,.0f} MB" if size else ""
    return UnavailableError(f"{error}{fetches}", reason="model_not_downloaded", hint=f"hybrid pull {model_id}")


def _unknown(error: "DeviceError") -> HybridError:
    return ConfigurationError(str(error), hint="hybrid list shows every model of the catalogue")


def _overflow(error: "DeviceError") -> HybridError:
    limit, needed = getattr(error, "limit", 0), getattr(error, "needed", 0)
    message = f"the request needs {needed} tokens and the model's context holds {limit}"
    return ContextOverflowError(message, limit=limit, needed=needed, hint="shorten the input; nothing was cut or sent")


if TYPE_CHECKING:
    from collections.abc import Callable

    _Maker = Callable[[DeviceError], HybridError]

ROWS: "dict[str, _Maker]" = {
    "BadRequest": lambda error: ConfigurationError(str(error)),
    "ContextOverflow": _overflow,
    "DoesNotFit": _unavailable("not_enough_memory", "choose a smaller model, close programs, or use a node"),
    "EngineFailed": lambda error: GenerationError(str(error), hint="try again; other requests are not affected"),
    "EngineClosed": lambda error: ConfigurationError(str(error), hint="open a new Client in this process"),
    "Overloaded": lambda error: OverloadedError(str(error), hint="try again in a moment", left_device="no"),
    "UnknownModel": _unknown,
    "ModelMissing": _missing,
    "ModelDamaged": _unavailable("model_damaged", "hybrid pull --force fetches it again"),
    "FetchFailed": _unavailable("download_failed", "check the network and run the same command again"),
    "DiskFull": _unavailable("disk_full", "free some disk space, or remove a model: hybrid list rm"),
    "BadSource": lambda error: ConfigurationError(str(error)),
}


# --- models ---------------------------------------------------------------------------------------------------------


def open_store(root: Path | None = None) -> "Store":
    """Return the model store; root None is the platform's cache folder."""
    with mapped():
        return part("store").Store(root)  # type: ignore[no-any-return]


def runtime_path() -> "RuntimePath":
    """Return which path the engine would take on this machine, without loading a model."""
    with mapped():
        return part("runtime").describe()  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class _Key:
    path: Path
    model_id: str


class DeviceModel:
    """A model of this machine: found now, opened on first use, shared by everybody in this process who opens it.

    Implements the ``Engine`` protocol. The weights are freed when its last user closes it.
    """

    _open: ClassVar["dict[_Key, tuple[Engine, int]]"] = {}
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, store: "Store", installed: "Installed") -> None:
        self._store = store
        self._installed = installed
        self._key = _Key(installed.path, installed.entry.id)
        self._engine: Engine | None = None
        self._closed = False

    @classmethod
    def find(cls, model: str | None, root: Path | None = None) -> Self:
        """Return the model that will answer: the named one, or the store's default. Loads nothing.

        Raises ConfigurationError for an unknown name, the nearest one in its message; UnavailableError when the model
        is not in the store, or nothing here could run it.
        """
        with mapped():
            store = part("store").Store(root)
            found = store.get(model) if model else store.default(sys.platform == "darwin")
        if found is None:
            raise UnavailableError(
                "no model is in the store yet", reason="model_not_downloaded", hint="hybrid pull starter"
            )
        if importlib.util.find_spec("mlx") is None:
            raise UnavailableError(NO_ENGINE, reason="engine_missing", hint=REINSTALL)
        return cls(store, found)

    @property
    def model_id(self) -> str:
        """The catalogue id of the model."""
        return self._key.model_id

    @property
    def context_size(self) -> int:
        """Tokens of context; the catalogue's figure until the model is loaded."""
        return self._engine.context_size if self._engine else int(self._installed.entry.context_tokens)

    @property
    def loaded(self) -> bool:
        """Whether the weights are in memory."""
        return self._engine is not None

    @property
    def default_sampling(self) -> "Sampling":
        """What the model's manifest recommends where the caller wishes nothing; plain defaults before it is loaded."""
        from .wire.types import Sampling

        recommended: Sampling = getattr(self._engine, "default_sampling", None) or Sampling()
        return recommended

    async def generate(self, request: "GenerateRequest", *, partition: str = "default") -> "AsyncIterator[Chunk]":
        """Stream the answer, loading the model first where that has not happened yet."""
        engine = await self.load()
        with mapped():
            async with contextlib.aclosing(engine.generate(request, partition=partition)) as chunks:  # type: ignore[type-var]
                async for chunk in chunks:
                    yield chunk

    async def count_tokens(self, request: "GenerateRequest") -> int:
        """Tokens of the framed request."""
        engine = await self.load()
        with mapped():
            return await engine.count_tokens(request)

    def release(self, partition: str) -> None:
        """Drop the context kept for one conversation."""
        release = getattr(self._engine, "release", None)
        if release is not None:
            with contextlib.suppress(HybridError), mapped():
                release(partition)

    async def load(self) -> "Engine":
        """Open the model if nobody in this process has; the blocking work happens on another thread."""
        if self._engine is None:
            import asyncio

            await asyncio.to_thread(self._acquire)
        assert self._engine is not None  # noqa: S101 - _acquire sets it or raises
        return self._engine

    def _acquire(self) -> None:
        with DeviceModel._lock:  # also keeps two threads from loading the same weights twice
            if self._closed:
                raise ConfigurationError("this client was closed", hint="make a new one")
            if self._engine is not None:
                return
            engine, users = DeviceModel._open.get(self._key, (None, 0))
            if engine is None:
                engine, users = self._opened(), 0
            DeviceModel._open[self._key] = (engine, users + 1)
            self._engine = engine

    def _opened(self) -> "Engine":
        with mapped():
            self._store.verify(self._installed)
            try:
                opener = part("engine").MLXEngine.open
            except ImportError as error:
                raise UnavailableError(NO_ENGINE, reason="engine_missing", hint=REINSTALL) from error
            return opener(self._installed.path, model_id=self._key.model_id)  # type: ignore[no-any-return]

    async def close(self) -> None:
        """Let go, after a load under way; the last user frees the model."""
        import asyncio

        try:
            unused = await asyncio.to_thread(self._let_go)
            if unused is not None:
                await unused.close()
        except RuntimeError:
            if not sys.is_finalizing() and threading.main_thread().is_alive():
                raise
            # The interpreter is on its way out and starts no thread any more: the engine's own finalizer stops it.

    def _let_go(self) -> "Engine | None":
        """Return the engine if nobody uses it any more."""
        with DeviceModel._lock:
            self._closed = True
            engine, self._engine = self._engine, None
            if engine is None:
                return None
            held, users = DeviceModel._open.get(self._key, (engine, 1))
            if held is engine and users > 1:
                DeviceModel._open[self._key] = (engine, users - 1)
                return None
            if held is engine:
                del DeviceModel._open[self._key]
            return engine


def _after_fork() -> None:
    """Forget the parent's engines in a child: their threads do not exist there."""
    DeviceModel._open = {}  # noqa: SLF001 - this module's own
    DeviceModel._lock = threading.Lock()  # noqa: SLF001


os.register_at_fork(after_in_child=_after_fork)
