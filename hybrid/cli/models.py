"""Models as the commands see them: the store at its configured place, the catalogue, sizes in words.

Everything of ``device`` is reached through ``hybrid.local``.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from device.catalog import Catalog, Entry
    from device.fit import Fit
    from device.store import Installed, Progress, Store

STARTER_ID = "smollm2-135m"
RECOMMENDED = "smollm3"
USUAL_CONTEXT = 4096  # what the fit is shown for before a model's own limit is known to be of use
STARTER_NOTE = (
    "note: the starter answers here. It shows the machinery; it is not a clever model. "
    f"For a 3B model: hybrid pull {RECOMMENDED}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """The store and its catalogue."""

    store: "Store"

    @property
    def catalog(self) -> "Catalog":
        """The shipped catalogue with the user's own entries."""
        return self.store.known

    @classmethod
    def open(cls) -> "Shelf":
        """Open the store where the configuration says."""
        from hybrid import config, local

        return cls(store=local.open_store(config.load().models))

    def entry(self, name: str) -> "Entry":
        """Return a catalogue entry. Raises ConfigurationError with the nearest name."""
        from hybrid.local import mapped

        with mapped():
            return self.catalog.find(name)

    def installed(self) -> "list[Installed]":
        """Return the models in the store."""
        from hybrid.local import mapped

        with mapped():
            return self.store.list()

    def get(self, name: str) -> "Installed":
        """Return one model of the store. Raises ConfigurationError for an unknown name, UnavailableError if absent."""
        from hybrid.local import mapped

        with mapped():
            return self.store.get(name)

    def default(self) -> "Installed | None":
        """Return the model that answers when none is named."""
        import sys

        from hybrid.local import mapped

        with mapped():
            return self.store.default(is_mac=sys.platform == "darwin")

    def remove(self, name: str) -> None:
        """Remove a model from the store; a damaged one too."""
        from hybrid.local import mapped

        with mapped():
            self.store.remove(name)

    def record(self, installed: "Installed") -> "Installed":
        """Pin a hub model without a known digest to the bytes that are there."""
        from hybrid.local import mapped

        with mapped():
            return self.store.record(installed)

    def fit_of(self, entry: "Entry") -> "Fit":
        """Compute what a model would take of this machine's memory: on a processor alone as f32, where that fits."""
        from hybrid.local import part, runtime_path

        fit = part("fit")
        on_cpu = runtime_path().path.startswith("cpu")
        forms = [(entry.size_bytes, entry.kv_bytes_per_token * (2 if on_cpu else 1))]
        if on_cpu:
            forms.insert(0, (fit.f32_bytes(entry.params, entry.size_bytes), 2 * entry.kv_bytes_per_token))
        answers: list[Fit] = [
            fit.fits(
                model_id=entry.id,
                weights_bytes=weights,
                kv_token_bytes=kv_token,
                context_tokens=min(entry.context_tokens, USUAL_CONTEXT),
                room_bytes=part("memory").room_bytes(),
            )
            for weights, kv_token in forms
        ]
        return next((answer for answer in answers if answer.verdict == "fits"), answers[-1])

    def pull(self, entry: "Entry", *, progress: "Callable[[Progress], None]", force: bool) -> "Installed":
        """Fetch a model. Raises UnavailableError: no network, wrong digest, full disk; nothing half-done shows."""
        from hybrid.local import mapped

        with mapped():
            return self.store.pull(entry, progress=progress, force=force)

    def add_folder(self, folder: "Path", *, name: str, force: bool) -> "Installed":
        """Copy a model folder of the user's own into the store."""
        from hybrid.local import mapped

        with mapped():
            return self.store.add_folder(folder, name=name, force=force)
