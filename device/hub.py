"""Models from a Hugging Face hub: exactly the wanted files, at one commit, by the hub's own client.

The client reads its settings at import, and loading a model must stay offline; so it runs in a child process
(``python -m device.hub``). Where it connects is the user's setting for that client. A file that was cut off resumes
within one run; after a kill, whole files are kept and the cut one starts over.
"""

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .catalog import Entry, HubSource, wanted_from_hub
from .child import start_module
from .errors import DiskFull, FetchFailed, ModelDamaged
from .manifest import list_files, sha256_file
from .progress import Job

# Everything the client writes stays in staging: the chunk cache of the xet transport would not.
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "0",
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "0",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
}
_MARK = "@hub "  # before each JSON line of the child; everything else it prints is the client's own talk
_COMMIT = re.compile(r"[0-9a-f]{40}")
_STEP = 1 << 20  # bytes between two progress lines


@dataclass(frozen=True, slots=True, kw_only=True)
class _Remote:
    """A file as the hub or the catalogue describes it. sha256: hex, or None where nobody says."""

    path: str
    size: int
    sha256: str | None


def fetch(job: Job) -> str:
    """Fetch the files of ``job.entry`` into ``job.raw``, each checked against catalogue or hub.

    Returns the repository with the commit that was fetched. Raises FetchFailed with the client's cause, DiskFull,
    and ModelDamaged naming a file that is not the one described.
    """
    source = job.entry.source
    if not isinstance(source, HubSource):
        raise TypeError(job.entry.id)
    commit, files = _listing(job.entry, source)
    job.raw.mkdir(parents=True, exist_ok=True)
    _drop_partials(job.raw)
    total = sum(file.size for file in files)
    job.room(total - sum(_present(job.raw / file.path) for file in files))
    task = {"repo": source.repo, "revision": commit, "into": str(job.raw), "paths": [file.path for file in files]}
    _child("get", task, lambda done: job.report("download", done, total))
    for file in files:
        _check(job.raw / file.path, file)
    _drop_others(job.raw, {file.path for file in files})
    return str(HubSource(repo=source.repo, revision=commit))


def _listing(entry: Entry, source: HubSource) -> tuple[str, list[_Remote]]:
    answer = _child("list", {"repo": source.repo, "revision": source.revision}, lambda _: None)
    asked, commit = source.revision, str(answer["commit"])
    if not _COMMIT.fullmatch(commit) or (_COMMIT.fullmatch(asked) and commit != asked):
        raise FetchFailed(f"{source.repo} is not served at the commit asked for, {asked}")
    there = {row["path"]: _Remote(**row) for row in answer["files"]}
    if not entry.files:
        return commit, [file for path, file in there.items() if wanted_from_hub(path)]
    missing = [file.path for file in entry.files if file.path not in there]
    if missing:
        raise FetchFailed(f"{source.repo} has no file {missing[0]} at revision {source.revision}")
    return commit, [_Remote(path=f.path, size=f.size, sha256=f.sha256) for f in entry.files]


def _drop_partials(raw: Path) -> None:
    """Remove what a killed client left: its partial files have names that no later run takes up."""
    for partial in raw.glob(".cache/**/*.incomplete"):
        partial.unlink()


def _drop_others(raw: Path, wanted: set[str]) -> None:
    """Remove what an earlier run left of another commit: stale weights would be loaded along with the right ones."""
    shutil.rmtree(raw / ".cache", ignore_errors=True)
    for path in list(list_files(raw)):
        if path not in wanted:
            (raw / path).unlink()


def _present(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _check(path: Path, file: _Remote) -> None:
    if not path.is_file():
        raise FetchFailed(f"the hub client fetched no {file.path}")
    size = path.stat().st_size
    if size != file.size or (file.sha256 and sha256_file(path) != file.sha256):
        path.unlink()
        raise ModelDamaged(file.path, f"has {size} bytes that are not the ones described ({file.size} bytes)")


def _child(action: str, task: dict[str, Any], report: Callable[[int], None]) -> dict[str, Any]:
    """Run one action in a child process and return its answer. Raises FetchFailed or DiskFull for its failure."""
    with start_module("device.hub", [action, json.dumps(task)], _ENVIRONMENT) as child:
        answer, talk = _read(child.stdout or (), report)
        child.wait()
    if answer is None:
        raise FetchFailed(f"the hub client stopped without an answer: {talk}")
    if answer.get("error") == "disk":
        raise DiskFull(int(answer["needed"]), shutil.disk_usage(task["into"]).free)
    if "error" in answer:
        raise FetchFailed(f"{task['repo']} could not be fetched: {answer['error']}")
    return answer


def _read(lines: Iterable[str], report: Callable[[int], None]) -> tuple[dict[str, Any] | None, str]:
    answer, talk = None, "it said nothing"
    for line in lines:
        if not line.startswith(_MARK):
            talk = line.strip() or talk
            continue
        value = json.loads(line.removeprefix(_MARK))
        if "done" in value:
            report(value["done"])
        else:
            answer = value
    return answer, talk


# What follows runs in the child.


def main() -> None:
    """Do one action and print its answer as one marked JSON line."""
    action, task = sys.argv[1], json.loads(sys.argv[2])
    try:
        _say(_ACTIONS[action](task))
    except Exception as error:  # noqa: BLE001 - every failure of the client has to reach the parent as one sentence
        _say(_failure(error))


def _say(value: dict[str, Any]) -> None:
    sys.stdout.write(_MARK + json.dumps(value) + "\n")
    sys.stdout.flush()


def _list(task: dict[str, Any]) -> dict[str, Any]:
    from huggingface_hub import HfApi

    info = HfApi().model_info(task["repo"], revision=task["revision"], files_metadata=True)
    files = [
        {"path": s.rfilename, "size": s.size or 0, "sha256": s.lfs.sha256 if s.lfs else None}
        for s in info.siblings or ()
    ]
    return {"commit": info.sha, "files": files}


def _get(task: dict[str, Any]) -> dict[str, Any]:
    from huggingface_hub import hf_hub_download

    into, done = Path(task["into"]), 0
    for path in task["paths"]:
        bar = _bar(done)
        hf_hub_download(task["repo"], path, revision=task["revision"], local_dir=into, tqdm_class=bar)
        done += (into / path).stat().st_size
        _say({"done": done})
    return {"ok": True}


def _bar(base: int) -> type[Any]:
    """Return a progress bar class that draws nothing and says how many bytes are there, ``base`` of them before."""
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[misc,type-arg,unused-ignore]
        def __init__(self, *_: Any, initial: int = 0, **__: Any) -> None:
            super().__init__(disable=True)
            self.there = base + initial
            self.said = self.there

        def update(self, n: float | None = 1) -> bool | None:
            self.there += int(n or 0)
            if self.there - self.said >= _STEP:
                self.said = self.there
                _say({"done": self.there})
            return None

    return Bar


_ACTIONS = {"list": _list, "get": _get}
_UNREACHED = frozenset({"TransportError", "ConnectionError", "OfflineModeIsEnabled"})  # of httpx and the client


def _failure(error: BaseException) -> dict[str, Any]:
    """Say in one sentence why the client failed."""
    import errno

    if isinstance(error, ImportError):
        return {"error": f"huggingface_hub cannot be imported here ({error})"}
    from huggingface_hub import errors

    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return {"error": "disk", "needed": 0}
    known = {
        errors.GatedRepoError: "its licence has to be accepted on the hub first",
        errors.RepositoryNotFoundError: "the hub has no such repository, or it is private",
        errors.RevisionNotFoundError: "the hub has no such revision",
        errors.RemoteEntryNotFoundError: "the hub has no such file",
        errors.LocalEntryNotFoundError: "the hub cannot be reached",
    }
    for kind, sentence in known.items():
        if isinstance(error, kind):
            return {"error": sentence}
    if any(kind.__name__ in _UNREACHED for kind in type(error).__mro__):
        return {"error": f"the hub cannot be reached ({type(error).__name__})"}
    first = (str(error).strip().splitlines() or [""])[0]
    return {"error": f"{type(error).__name__}: {first[:200].rstrip('.')}"}


if __name__ == "__main__":
    main()
