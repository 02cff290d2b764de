"""Addresses on the network: electronic mail and IP."""

import re
from collections.abc import Iterator
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from .cues import Near, words
from .folding import Folded
from .spans import Span

_LOCAL = re.compile(r"[\w.+%&'~!-]")
_DOMAIN = re.compile(
    r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}(?:[^\W\d_]{2,24}|xn--[a-z0-9-]{2,59})(?![\w-])", re.IGNORECASE
)
_TRIM = ".'!&~%-"
LONGEST_LOCAL = 64  # RFC 5321, 4.5.3.1.1

_V4 = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![0-9A-Za-z_]|\.[0-9])")
_V6_JOINT = re.compile(r":[0-9A-Fa-f]{0,4}:")
_V6 = re.compile(r"[0-9A-Fa-f:]{2,45}(?:(?<=:)[0-9]{1,3}(?:\.[0-9]{1,3}){3})?(?![0-9A-Za-z_:]|\.[0-9])")
_ZONE = re.compile(r"%[0-9A-Za-z]{1,15}")
_V6_CHARS = frozenset("0123456789abcdefABCDEF:")
_VERSION = re.compile(r"(?:\bv(?:er(?:sion)?s?)?\.? ?|version (?:is |number )?|release |build |section |chapter |§ ?)$")
_CUES = words(
    "ip ips ipv4 ipv6 address adresse host hosts server dns gateway ping subnet router nameserver client peer"
)
LONGEST_V6 = 45
FULL = 8


def emails(text: Folded) -> Iterator[Span]:
    """Find addresses of electronic mail (RFC 5321). Linear: 64 characters are read back from each @."""
    at = text.text.find("@")
    while at >= 0:
        found = _email(text.text, at)
        if found:
            yield text.span(*found, "EMAIL_ADDRESS")
        at = text.text.find("@", at + 1)


def _email(text: str, at: int) -> tuple[int, int] | None:
    match = _DOMAIN.match(text, at + 1)
    if match is None:
        return None
    start = at
    while start and at - start < LONGEST_LOCAL and _LOCAL.match(text[start - 1]):
        start -= 1
    local = text[start:at].lstrip(_TRIM)
    return (at - len(local), match.end()) if local and not local.endswith(".") else None


def ips(text: Folded) -> Iterator[Span]:
    """Find IP addresses; those that name no machine on the public network are reported without the verdict."""
    if text.text.count(".") > 2:  # noqa: PLR2004 - three dots in an IPv4 address
        yield from _fours(text)
    if text.text.count(":") > 1:
        yield from _sixes(text)


def _fours(text: Folded) -> Iterator[Span]:
    for match in _V4.finditer(text.text):
        start = match.start()
        before = text.text[start - 1 : start]
        if (before.isascii() and (before.isalnum() or before in {".", "_"})) or _VERSION.search(
            text.lower[max(0, start - 20) : start]
        ):
            continue
        try:
            private = IPv4Address(match[0]).is_global
        except AddressValueError:
            continue
        yield text.span(start, match.end(), "IP_ADDRESS", private=private)


def _sixes(text: Folded) -> Iterator[Span]:
    beyond = 0
    for joint in _V6_JOINT.finditer(text.text):
        start = joint.start()
        if start < beyond:
            continue
        while start > beyond and joint.start() - start < LONGEST_V6 and text.text[start - 1] in _V6_CHARS:
            start -= 1
        match = _V6.match(text.text, start)
        beyond = match.end() if match else joint.end() - 1
        before = text.text[start - 1 : start]
        if match is None or (before.isascii() and (before.isalnum() or before == "_")):
            continue
        found = _six(text, start, match.end())
        if found:
            yield found


def _six(text: Folded, start: int, end: int) -> Span | None:
    while end > start and text.text[end - 1] == ":" and text.text[end - 2] != ":":
        end -= 1
    written = text.text[start:end]
    if not (_surely_v6(written) or Near(text.lower, start, end).has(_CUES)):
        return None
    try:
        address = IPv6Address(written)
    except AddressValueError:
        return None
    zone = _ZONE.match(text.text, end)
    public = address.is_global or not address.is_private
    return text.span(start, zone.end() if zone else end, "IP_ADDRESS", private=public)


def _surely_v6(written: str) -> bool:
    """Whether it can hardly be a slice, a scope operator or a row of ratios: eight groups or a long first one."""
    groups = [g for g in written.split(":") if g]
    longest = max(map(len, groups), default=0)
    if len(groups) == FULL or "." in written:
        return longest > 2  # noqa: PLR2004 - hours, minutes and ratios have two digits
    return len(groups) > 1 and len(groups[0]) > 2 and any(c.isdigit() for c in written)  # noqa: PLR2004 - as above
