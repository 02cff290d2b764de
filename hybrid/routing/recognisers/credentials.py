"""Secrets: keys with a known beginning, private keys, tokens, and what stands behind a word such as ``password:``."""

import math
import re
from collections import Counter
from collections.abc import Iterator

from .folding import Folded
from .spans import Span

_KEYS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (begins, re.compile(form))
    for begins, form in (
        ("AKIA", r"(?<![0-9A-Za-z])AKIA[0-9A-Z]{16}(?![0-9A-Za-z])"),  # Amazon
        ("ASIA", r"(?<![0-9A-Za-z])ASIA[0-9A-Z]{16}(?![0-9A-Za-z])"),
        ("gh", r"(?<![0-9A-Za-z])gh[opusr]_[0-9A-Za-z]{30,255}"),  # GitHub
        ("github_pat_", r"github_pat_[0-9A-Za-z_]{22,255}"),
        ("glpat-", r"glpat-[0-9A-Za-z_-]{20,64}"),  # GitLab
        ("xox", r"(?<![0-9A-Za-z])xox[abeoprs]-[0-9A-Za-z-]{10,250}"),  # Slack
        ("hooks.slack.com/", r"hooks\.slack\.com/services/[0-9A-Za-z/]{20,80}"),
        (
            "sk-",
            r"(?<![0-9A-Za-z])sk-(?:proj-|ant-|or-|svcacct-)?[0-9A-Za-z_-]{20,250}",
        ),  # OpenAI, Anthropic and others
        ("_live_", r"(?<![0-9A-Za-z])[prs]k_live_[0-9A-Za-z]{10,250}"),  # Stripe
        ("_test_", r"(?<![0-9A-Za-z])[rs]k_test_[0-9A-Za-z]{10,250}"),
        ("AIza", r"(?<![0-9A-Za-z])AIza[0-9A-Za-z_-]{35}(?![0-9A-Za-z_-])"),  # Google
        ("ya29.", r"(?<![0-9A-Za-z])ya29\.[0-9A-Za-z_-]{20,250}"),
        ("hf_", r"(?<![0-9A-Za-z_])hf_[0-9A-Za-z]{30,64}"),  # Hugging Face
        ("npm_", r"(?<![0-9A-Za-z_])npm_[0-9A-Za-z]{36}"),
        ("pypi-", r"pypi-AgEI[0-9A-Za-z_-]{50,250}"),
        ("SG.", r"(?<![0-9A-Za-z])SG\.[0-9A-Za-z_-]{16,32}\.[0-9A-Za-z_-]{16,64}"),  # SendGrid
        ("_v1_", r"(?<![0-9A-Za-z])do[opr]_v1_[0-9a-f]{64}"),  # DigitalOcean
        (
            "eyJ",
            r"(?<![0-9A-Za-z])eyJ[0-9A-Za-z_-]{8,4096}\.[0-9A-Za-z_-]{8,8192}(?:\.[0-9A-Za-z_-]{0,1024})?",
        ),  # JWT, RFC 7519
        ("PRIVATE KEY", r"-----BEGIN (?:[A-Z0-9]{2,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----"),  # RFC 7468
        ("AccountKey=", r"AccountKey=[0-9A-Za-z+/=]{40,120}"),  # Azure
    )
)
_PEM_END = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
LONGEST_PEM = 20_000

_IN_LINK = re.compile(r"://[^\s/:@\"'<>]{1,128}:([^\s/@\"'<>]{3,256})@[\w.-]")
_WORDS = (
    "passw",
    "passcode",
    "passphrase",
    "pwd",
    "secret",
    "token",
    "key",
    "credential",
    "contrasena",
    "mot de passe",
    "kennwort",
    "senha",
)
_NAME = re.compile(
    r"passw(?:or[dt]s?|d)|passcode|passphrase|pwd|kennwort|contrasena|senha|mot de passe|secrets?|tokens?|credentials?"
    r"|(?:api|access|private|auth|master|encryption|account)[_ -]?key"
)
_VALUE = re.compile(
    r"(?:[_ -]?(?:access|key|id|value|token|base)){0,2}[\"'\])]{0,2}"
    r"(?: (?:is|was|to|ist|es|est)\b:?|\s{0,3}(?::=|:|=>|={1,2}))\s{0,3}[\"'`\[(]{0,2}([^\s\"'`,;]{5,100})"
)
_BEARER = re.compile(r"\bbearer\s{1,3}([0-9a-z._~+/=-]{16,2048})")
_PLACEHOLDER = re.compile(
    r"^(?:[<{$%\[*]|\$\{|your|my[_-]|xxx|\.\.\.|example|changeme|placeholder|none|null|true|false|undefined|process\.|os\.|env|self\.|this\.|config|settings|request|req\.|user\.|get|input|args|f\"|\")"
)
_DIGIT = re.compile("[0-9]")
_CODE = re.compile(r"[()\[\]{}<>]|^[a-z_][a-z_]*(?:\.[a-z_][a-z_0-9]*)+$")


def credentials(text: Folded) -> Iterator[Span]:
    """Find secrets. What is cheap to rule out, is: a form is only looked for where its beginning occurs."""
    for begins, form in _KEYS if text.has_digit or "PRIVATE KEY" in text.text else ():
        if begins in text.text:
            for match in form.finditer(text.text):
                yield text.span(match.start(), _pem_end(text.text, match), "SECRET")
    if "://" in text.text and "@" in text.text:
        for match in _IN_LINK.finditer(text.text):
            if not _PLACEHOLDER.match(match[1].lower()):
                yield text.span(*match.span(1), "SECRET")
    if any(word in text.lower for word in _WORDS):
        yield from _named(text)
    if "bearer " in text.lower:
        yield from (text.span(*match.span(1), "SECRET") for match in _BEARER.finditer(text.lower))


def _pem_end(text: str, match: re.Match[str]) -> int:
    if not match[0].startswith("-----BEGIN"):
        return match.end()
    last = _PEM_END.search(text, match.end(), match.end() + LONGEST_PEM)
    return last.end() if last else match.end()


def _named(text: Folded) -> Iterator[Span]:
    beyond = 0
    for name in _NAME.finditer(text.lower):
        if name.start() < beyond:
            continue
        match = _VALUE.match(text.lower, name.end())
        if match:
            start, end = match.span(1)
            value = text.text[start:end].rstrip(".!?)]}")
            if looks_secret(value):
                beyond = end
                yield text.span(start, start + len(value), "SECRET")


def looks_secret(value: str) -> bool:
    """Whether a value is made to be hard to guess: letters with digits or signs, varied, and no piece of code."""
    if len(value) < 6 or _PLACEHOLDER.match(value.lower()) or _CODE.search(value):  # noqa: PLR2004 - shorter is guessable
        return False
    digit = _DIGIT.search(value) is not None
    kinds = sum((value.upper() != value, value.lower() != value, digit, not value.isalnum()))
    return kinds > 1 and (digit or kinds > 2) and entropy(value) >= 2.5  # noqa: PLR2004 - of four kinds; "secret12" has 2.75


def entropy(value: str) -> float:
    """Return the Shannon entropy of a value's characters, in bits per character."""
    return -sum(n / len(value) * math.log2(n / len(value)) for n in Counter(value).values())
