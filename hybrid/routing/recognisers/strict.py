"""Names, addresses, dates of birth and health, by light cues. Only under ``detect="strict"``.

They find a part of what there is and stop harmless texts too; `bench/privacy.py` says how much of each. A capital
letter is a cue here, so text written without capitals gives less.
"""

import re
from collections.abc import Callable, Iterator

from .cues import words
from .folding import Folded
from .spans import Span

_NAME = r"[A-Z][\w'-]{1,24}"
_FULL = rf"{_NAME}(?: (?:[A-Z]\.|(?:van|von|de|da|der|den|di|la|le|bin|al|el|du|dos) ?)){{0,2}}(?: {_NAME}){{0,3}}"
_TITLED = re.compile(rf"\b(?:Mr|Mrs|Ms|Miss|Mx|Dr|Prof|Herr|Frau|Mme|Monsieur|Madame|Sr|Sra|Sir|Lady|Rev)\.? ({_FULL})")
_SAID = re.compile(
    r"(?:my name is|my name's|i am|i'm|this is|call me|calls? me|called|named?:?|full name:?|contact:|attn:?|dear"
    r"|regards,|sincerely,"
    r"|account of|spouse|husband|wife|partner(?:'s name)?|daughter|brother|sister|guardian|beneficiary)\s{1,4}$"
)
_CAPITALS = re.compile(
    rf"(?<![\w.])({_NAME}(?: (?:[A-Z]\.|van|von|de|da|der|den|di|la|le|bin|al|el|du"
    rf"|dos)){{0,2}}(?: {_NAME}){{1,2}})(?![\w])"
)
_ONE = re.compile(rf"(?<![\w.])({_NAME})(?![\w])")
_DOES = re.compile(
    r"'s\b| (?:said|says|asked|told|lives?|works?|was born|wrote|called|is my|and i\b|will be|has been|spent"
    r"|shouted|listed|began)"
)
_COMMON = words("""
I A An The This That These Those My Your His Her Our Their It Its He She We You They What When Where Who Why How
Which Is Are Was Were Do Does Did Can Could Will Would Should May Might Must Please Hello Hi Hey Dear Thanks Thank
Yes No Not And Or But If Then So In On At To From For With By Of As Monday Tuesday Wednesday Thursday Friday
Saturday Sunday January February March April May June July August September October November December Name Address
Phone Date Email Mobile Fax Subject Re Fwd Write Make Give Tell Let Just Need Have Has Had Get Go Here There Now
Today Tomorrow Yesterday Mr Mrs Ms Dr English French German Spanish American
""")

_STREET = (
    r"(?:street|st|avenue|ave|road|rd|lane|ln|drive|dr|boulevard|blvd|court|ct|place|pl|square|sq|terrace|crescent"
    r"|way|highway|hwy|parkway|close"
    r"|circle|cir|trail|alley|mews|quay|grove|gardens|plaza)"
)
_NUMBERED = re.compile(rf"(?<![\w.])[0-9]{{1,5}}[a-z]?,? (?:[^\W\d_][\w.'-]{{0,24}} ){{1,4}}{_STREET}\b\.?")
_SUFFIXED = re.compile(
    r"(?:strasse|straße|str\.|gasse|weg|platz|allee|vej|gade|gatan|vagen|veien|gata|katu|tie|laan|straat|gracht"
    r"|utca),? [0-9]{1,4}[a-z]?(?!\w)"
)
_FOREIGN = re.compile(
    r"(?<!\w)(?:via|rue|calle|rua|avenida|piazza|corso|viale|ulica|ul\.|paseo|chemin|strada|impasse)"
    r"(?: [^\W\d_][\w.'-]{0,24}){1,4},? [0-9]{1,4}[a-z]?(?!\w)"
)
_LONGEST_WORD = 24
_NUMBER_FIRST = re.compile(
    r"(?<![\w.])[0-9]{1,4}(?: bis| ter)?,? (?:rue|avenue|boulevard|place|via|chemin|impasse"
    r"|calle)(?: [^\W\d_][\w.'-]{0,24}){1,4}"
)
_BOX = re.compile(r"(?<!\w)(?:p\.? ?o\.? ?box|postfach|apartado|suite|apt\.?|apartment|flat|unit) ?#?[0-9]{1,6}(?!\w)")
_ZIP = re.compile(r"(?<!\w)(?:[A-Z]{2} [0-9]{5}(?:-[0-9]{4})?|[A-Z]{1,2}[0-9][0-9A-Z]? [0-9][A-Z]{2})(?!\w)")
_ZIP_NAMED = re.compile(r"\b(?:zip|postal|post)[ -]?code:? (?:is )?([0-9][0-9 -]{2,8}[0-9])")

_BORN = re.compile(r"\b(?:born|birth ?(?:day|date)?|d\.?o\.?b|birthdate|geboren|geburtsdatum|nee?|nacido|nato|nata)\b")
_DAY = re.compile(
    r"(?<![\w.])(?:[0-9]{1,2}[./-][0-9]{1,2}[./-](?:[0-9]{4}|[0-9]{2})|[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"|(?:[0-9]{1,2}(?:st|nd|rd|th)?(?: of)? )?(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov"
    r"|dec)[a-z]{0,6}\.?(?: [0-9]{1,2}(?:st|nd|rd|th)?)?,? [0-9]{4})(?!\w)"
)
_BORN_NEAR = 40

_HEALTH = re.compile(
    r"\b(?:my (?:doctor|gp|therapist|psychiatrist|psychologist|oncologist|gynaecologist|gynecologist|symptoms?"
    r"|diagnosis|prescription"
    r"|medications?|pregnancy|surgery|blood (?:test|pressure|sugar)|depression|anxiety|cancer|diabetes|asthma|hiv"
    r"|period|illness|condition)"
    r"|(?:i|he|she|patient) (?:was|were|am|is|have been|has been|'?ve been|got) diagnosed with|patient (?:is|was"
    r"|has|presents|complain\w{0,4})"
    r"|i (?:have|suffer from|am suffering from|take|was prescribed|am on) (?:\w{1,14} ){0,2}(?:cancer|diabetes"
    r"|depression|anxiety|asthma|hiv|epilepsy"
    r"|migraines?|hepatitis|arthritis|adhd|insulin|antidepressants?|chemo\w{0,8}|schizophrenia|dementia)"
    r"|i(?:'m| am) (?:pregnant|hiv positive|diabetic|epileptic|bipolar)|(?:female|male|man|woman) complaining of"
    r"|history of (?:headaches?|seizures?|cancer|stroke))\b"
)


def names(text: Folded) -> Iterator[Span]:
    """Find names of people: behind a title, behind words such as ``my name is``, or two capitalised words in a row."""
    for match in _TITLED.finditer(text.text):
        yield text.span(match.start(1), match.end(1), "PERSON")
    for match in _CAPITALS.finditer(text.text):
        start, end = _without_common(match[1], match.start(1))
        if " " in text.text[start:end]:
            yield text.span(start, end, "PERSON")
    for match in _ONE.finditer(text.text):
        start, end = match.span(1)
        said = _SAID.search(text.lower, max(0, start - 24), start) or _DOES.match(text.lower, end)
        if said and match[1] not in _COMMON:
            yield text.span(start, end, "PERSON")


def _without_common(words: str, start: int) -> tuple[int, int]:
    end = start + len(words)
    for word in words.split(" "):
        if word not in _COMMON:
            break
        start += len(word) + 1
    return min(start, end - 1), end


def addresses(text: Folded) -> Iterator[Span]:
    """Find postal addresses: a street with its number, a box or flat, a code of a state or of the United Kingdom."""
    if text.has_digit:
        for form in (_NUMBERED, _FOREIGN, _NUMBER_FIRST, _BOX):
            yield from (text.span(*match.span(), "ADDRESS") for match in form.finditer(text.lower))
        yield from (text.span(*match.span(), "ADDRESS") for match in _ZIP.finditer(text.text))
        yield from (text.span(*match.span(1), "ADDRESS") for match in _ZIP_NAMED.finditer(text.lower))
        yield from (
            text.span(_word_start(text.lower, m.start()), m.end(), "ADDRESS") for m in _SUFFIXED.finditer(text.lower)
        )


def _word_start(text: str, end: int) -> int:
    start = end
    while start and end - start < _LONGEST_WORD and (text[start - 1].isalpha() or text[start - 1] in ".-"):
        start -= 1
    return start


def birth_dates(text: Folded) -> Iterator[Span]:
    """Find a date within 40 characters behind a word for birth."""
    if text.has_digit and _BORN.search(text.lower):
        for match in _DAY.finditer(text.lower):
            if _BORN.search(text.lower, max(0, match.start() - _BORN_NEAR), match.start()):
                yield text.span(*match.span(), "BIRTH_DATE")


def health(text: Folded) -> Iterator[Span]:
    """Find words about somebody's own health."""
    yield from (text.span(*match.span(), "HEALTH") for match in _HEALTH.finditer(text.lower))


STRICT_RECOGNISERS: tuple[Callable[[Folded], Iterator[Span]], ...] = (names, addresses, birth_dates, health)
"""What is also looked for under ``detect="strict"``."""
