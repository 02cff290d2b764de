"""The only door to the on-device runtime: checks that it is ours, loads it late, maps its errors.

Everything that touches models, personal files or the machine's sensors goes through here. Importing this module loads
nothing of it.
"""

import contextlib
import importlib
import importlib.util
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from .errors import (
    ConfigurationError,
    ContextOverflowError,
    GenerationError,
    HybridError,
    OverloadedError,
    UnavailableError,
)

if TYPE_CHECKING:
    from device.catalog import Catalog
    from device.errors import DeviceError
    from device.runtime import RuntimePath
    from device.sensors import Readings
    from device.store import Installed, Store

    from .wire.types import Chunk, Engine, GenerateRequest

BESIDE = Path(__file__).resolve().parent.parent


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
    errors = part("errors")
    try:
        yield
    except errors.DeviceError as error:
        raise public_error(error) from None  # the cause could hold content


def public_error(error: "DeviceError") -> HybridError:
    """Return the one public error that a device error means."""
    errors = part("errors")
    for kind, make in _TABLE.items():
        if isinstance(error, getattr(errors, kind)):
            return make(error)
    raise error  # a new leaf without a row: tests/test_errors.py keeps this unreachable


def _unavailable(reason: str, hint: str = "") -> "_Maker":
    return lambda error: UnavailableError(str(error), reason=reason, hint=hint)


def _missing(error: "DeviceError") -> HybridError:
    model_id, size = getattr(error, "model_id", ""), getattr(error, "size_bytes", None)
    fetches = f" (fetches {size / 1e6:.0f} MB)" if size else ""
    return UnavailableError(str(error), reason="model_not_downloaded", hint=f"hybrid pull {model_id}{fetches}")


def _unknown(error: "DeviceError") -> HybridError:
    return ConfigurationError(str(error), hint="hybrid list shows every model of the catalogue")


def _overflow(error: "DeviceError") -> HybridError:
    limit, needed = getattr(error, "limit", 0), getattr(error, "needed", 0)
    message = f"the request needs {needed} tokens and the model's context holds {limit}"
    return ContextOverflowError(message, limit=limit, needed=needed, hint="shorten the input; nothing was cut or sent")


if TYPE_CHECKING:
    from collections.abc import Callable

    _Maker = Callable[[DeviceError], HybridError]

_TABLE: "dict[str, _Maker]" = {
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


def open_catalog() -> "Catalog":
    """Return the catalogue of models."""
    with mapped():
        return part("catalog").catalog()  # type: ignore[no-any-return]


def runtime_path() -> "RuntimePath":
    """Return which path the engine would take on this machine, without loading a model."""
    with mapped():
        return part("runtime").describe()  # type: ignore[no-any-return]


def readings() -> "Readings":
    """Read battery, heat, memory and link."""
    with mapped():
        return part("sensors").read()  # type: ignore[no-any-return]


def find_model(model: str | None, root: Path | None = None) -> "Installed":
    """Return the model that will answer: the named one, or the store's default.

    Raises ConfigurationError for an unknown name (the nearest one in the hint), UnavailableError when the model is not
    in the store.
    """
    with mapped():
        store = part("store").Store(root)
        found = store.get(model) if model else store.default(is_mac=sys.platform == "darwin")
    if found is None:
        raise UnavailableError(
            "no model is in the store yet", reason="model_not_downloaded", hint="hybrid pull starter (93 MB)"
        )
    return found  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class _Key:
    path: Path
    model_id: str


class SharedEngine:
    """The engine of one model in this process, opened on first use and closed when its last user lets go."""

    _open: "dict[_Key, tuple[Engine, int]]" = {}
    _lock = threading.Lock()

    def __init__(self, installed: "Installed") -> None:
        self._installed = installed
        self._key = _Key(installed.path, installed.entry.id)
        self._engine: Engine | None = None

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

    async def generate(self, request: "GenerateRequest", *, partition: str = "default") -> "AsyncIterator[Chunk]":
        """Stream the answer, loading the model first where that has not happened yet."""
        engine = await self.load()
        with mapped():
            chunks = engine.generate(request, partition=partition)
            async with contextlib.aclosing(chunks) as running:  # type: ignore[type-var]
                async for chunk in running:
                    yield chunk

    async def count_tokens(self, request: "GenerateRequest") -> int:
        """Tokens of the framed request."""
        engine = await self.load()
        with mapped():
            return await engine.count_tokens(request)

    async def load(self) -> "Engine":
        """Open the model if nobody in this process has; blocking work happens on another thread."""
        if self._engine is None:
            import asyncio

            self._engine = await asyncio.to_thread(self._acquire)
        return self._engine

    def _acquire(self) -> "Engine":
        with SharedEngine._lock, mapped():
            engine, users = SharedEngine._open.get(self._key, (None, 0))
            if engine is None:
                opener = part("engine").MLXEngine.open
                engine = opener(self._installed.path, model_id=self._key.model_id)
            SharedEngine._open[self._key] = (engine, users + 1)
            return engine

    async def close(self) -> None:
        """Let go; the last user frees the model."""
        engine, self._engine = self._engine, None
        if engine is None:
            return
        with SharedEngine._lock:
            _, users = SharedEngine._open[self._key]
            if users > 1:
                SharedEngine._open[self._key] = (engine, users - 1)
                return
            del SharedEngine._open[self._key]
        await engine.close()
