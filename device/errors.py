"""Errors of the device floor; ``hybrid.local`` maps each to the public tree."""


class DeviceError(Exception):
    """Root of everything ``device`` raises."""


class BadRequest(DeviceError):
    """A request no engine could serve: empty prompt, ids outside the vocabulary."""


class ContextOverflow(DeviceError):
    """The framed prompt and its answer exceed the context.

    limit, needed: tokens.
    """

    def __init__(self, limit: int, needed: int) -> None:
        """Keep both numbers, so that every door can show them."""
        super().__init__(f"needs {needed} tokens, the limit is {limit}")
        self.limit = limit
        self.needed = needed


class DoesNotFit(DeviceError):
    """The model does not fit this machine's memory; the message holds the arithmetic."""


class EngineFailed(DeviceError):
    """The model failed while answering; other requests go on."""


class EngineClosed(DeviceError):
    """The engine was closed, or the process forked after it was opened."""


class Overloaded(DeviceError):
    """No room for another request now."""


class UnknownModel(DeviceError):
    """No catalogue entry of that name. nearest: the closest known id, or None."""

    def __init__(self, name: str, nearest: str | None) -> None:
        """Keep the nearest name for the hint."""
        super().__init__(f"unknown model {name!r}" + (f"; did you mean {nearest!r}?" if nearest else ""))
        self.name = name
        self.nearest = nearest


class ModelMissing(DeviceError):
    """A known model that is not in the store. size_bytes: what a pull would fetch, None if unknown."""

    def __init__(self, model_id: str, size_bytes: int | None) -> None:
        """Keep the id and size for the hint."""
        super().__init__(f"model {model_id} is not in the store")
        self.model_id = model_id
        self.size_bytes = size_bytes


class ModelDamaged(DeviceError):
    """A file of a model is not what the manifest or the catalogue says. path: the file."""

    def __init__(self, path: str, reason: str) -> None:
        """Name the file and what is wrong with it."""
        super().__init__(f"{path}: {reason}")
        self.path = path


class FetchFailed(DeviceError):
    """A download could not be finished: no network, source refused, interrupted."""


class DiskFull(DeviceError):
    """Not enough free disk. needed, free: bytes."""

    def __init__(self, needed: int, free: int) -> None:
        """Keep both numbers."""
        super().__init__(f"needs {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free")
        self.needed = needed
        self.free = free


class BadSource(DeviceError):
    """A file or folder of the user's cannot be used as what it claims to be. path: it."""

    def __init__(self, path: str, reason: str) -> None:
        """Name the file and what is wrong with it."""
        super().__init__(f"{path}: {reason}")
        self.path = path


def bare(error: Exception) -> Exception:
    """Return an error without the frames it was raised in: their locals are a request's words, ids and scores."""
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error
