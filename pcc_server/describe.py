"""What a node is, in the form its release and model signers sign (SPEC 5): ``pcc-server serve … --print release``."""

import asyncio
import json
from collections.abc import Callable, Iterable
from importlib.metadata import version

from .attest.collector import Ask, CollectFailure
from .attest.desk import collector_for
from .config import Settings, config_digest

KINDS = ("release", "model")
BOOT_PCRS = (4, 8, 9, 11)  # boot loader, its commands, the kernel: what a release can name on any machine
FIRMWARE_PCRS = (0, 1, 2, 3, 5, 6, 7)  # one machine's own
_UNTOUCHED = bytes(32)
_MEASUREMENT = slice(0x90, 0xC0)  # of an SNP report


def describe(kind: str, settings: Settings) -> str:
    """Return TOML for ``pcc-server log add``; what only the signer knows is left empty, and not signed until filled in.

    Asks this machine's TPM or its kernel. kind: of KINDS.  Raises StartFailure.
    """
    return _DESCRIBERS[kind](settings)


def _release(settings: Settings) -> str:
    lines = (
        'name = "hybrid-pcc"',
        f"version = {json.dumps(version('hybrid-pcc'))}",
        'source_commit = ""  # git rev-parse HEAD',
        'sbom = ""  # SHA-256 of its bill of materials',
        'artefacts = {}  # what is installed: "file name" = "its SHA-256"',
        "days = 90  # until it expires; 180 at most",
        "",
        "[configs]",
        f'default = "{config_digest(settings).hex()}"',
        *_MEASURED.get(settings.attester, _nothing)(settings),
    )
    return "\n".join(lines) + "\n"


def _nothing(_: Settings) -> Iterable[str]:
    return ()


def _tpm2(settings: Settings) -> Iterable[str]:
    from .attest.tpm_commands import Tpm
    from .attest.tpm_device import open_device

    device = open_device(settings.tpm)
    try:
        pcrs = Tpm(device).read_pcrs(sorted((*BOOT_PCRS, *FIRMWARE_PCRS)))
    finally:
        device.close()
    if not (boot := _measured(pcrs, BOOT_PCRS)):
        raise CollectFailure(
            f"the TPM {settings.tpm} holds no measurement in PCR 4, 8, 9 or 11: "
            "this machine does not measure its boot, so no client would take it for tier 1"
        )
    firmware = [f"#   {line}" for line in _measured(pcrs, FIRMWARE_PCRS)]
    told = ["", "# This machine's firmware, in case clients' trust files are to name it in tpm2.pcrs:", *firmware]
    return ["", "[[measurements.tpm2]]  # what this machine booted", *boot, *(told if firmware else ())]


def _measured(pcrs: dict[int, bytes], wanted: Iterable[int]) -> list[str]:
    return [f'{index} = "{pcrs[index].hex()}"' for index in wanted if pcrs[index] != _UNTOUCHED]


def _sev_snp(settings: Settings) -> Iterable[str]:
    parts = collector_for(settings.attester, settings.tpm).collect(Ask(format=settings.attester, challenge=bytes(64)))
    launched = parts["report"][_MEASUREMENT].hex()
    return ["", "[measurements]", f'sev-snp = ["{launched}"]  # what this guest was launched with']


_MEASURED: dict[str, Callable[[Settings], Iterable[str]]] = {"tpm2": _tpm2, "sev-snp": _sev_snp}


def _model(settings: Settings) -> str:
    from .engines import open_engine

    loaded = open_engine(settings)
    asyncio.run(loaded.engine.close())
    lines = (
        f"model_id = {json.dumps(loaded.engine.model_id)}",
        f'manifest = "{loaded.manifest.hex()}"',
        'licence = ""  # such as Apache-2.0',
        f"context = {loaded.engine.context_size}  # tokens",
    )
    return "\n".join(lines) + "\n"


_DESCRIBERS: dict[str, Callable[[Settings], str]] = {"release": _release, "model": _model}
