"""What the log tools raise; the message is the whole sentence a person sees."""


class LogError(Exception):
    """Something about a log's folder, key, checkpoint or witness that its operator must look at."""


class WitnessError(LogError):
    """A witness gave no cosignature: unreachable, refusing, or answering with something else.

    size: what the witness says it cosigned last, where that was the trouble.
    """

    def __init__(self, message: str, size: int | None = None) -> None:
        super().__init__(message)
        self.size = size
