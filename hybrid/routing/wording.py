"""What the reasons of a decision say, from codes and numbers alone: no word of a prompt, a source or an answer."""

from collections.abc import Iterable

from hybrid.wire.types import Route

from .policy import Mode

MISSING = {
    "no_node": "no private cloud is set up",
    "offline": "there is no network",
    "node_unreachable": "the node cannot be reached",
    "attestation_failed": "the node could not be verified",
    "attestation_stale": "the node's evidence is too old and has to be verified again",
    "node_auth": "the node refuses this device's credentials",
    "node_overloaded": "the node is busy",
    "node_timeout": "the node took too long",
    "node_error": "the node had a fault",
    "key_expired": "the node's key had expired",
    "policy_forbids": "handing over is switched off",
    "quota_reached": "a limit of the node is reached",
    "engine_missing": "the on-device engine is not installed",
    "model_not_downloaded": "no model is on this device",
    "not_enough_memory": "this device has too little memory for its model",
    "declined": "a person declined to send this",
}
"""Why a route cannot answer, by the words of ``availability()``."""

MODES = {
    Mode.PREFER_ON_DEVICE: "the device answers unless it cannot",
    Mode.PREFER_PRIVATE_CLOUD: "the private cloud answers unless it may not or cannot",
    Mode.ONLY_ON_DEVICE: "only the device may answer",
    Mode.ONLY_PRIVATE_CLOUD: "only the private cloud may answer",
}

TERMS = {
    "waiting": "the expected wait",
    "battery": "the battery",
    "heat": "the heat of the device",
    "memory": "the memory in use",
    "link": "the metered link",
    "cost": "the cost",
    "quota": "the quota",
    "conversation": "the side the conversation is on",
}
"""The terms of the price, as what moved a threshold."""

DOUBTS = {
    "doubt": "the device's answer looked doubtful",
    "refusal_local": "the device's answer began with a refusal",
    "unparseable": "the device's answer was not in the form that was asked for",
    "repeat": "the device's answer went round in circles",
}

_SIZE = "characters lines widest_line sentences sentence_length paragraphs stem"
_WORDING = "words word_length long_words variety foreign capitals names clusters hashed"
_NUMBERS = "digits distinct_numbers widest_number decimals years money quantity"
_MARKS = "equals operators parentheses brackets quotes commas colons backslashes underscores blanks"
_CODE = "code_marks calls methods loops branches indented deeply_indented programming"
_OPTIONS = "option_length option_spread option_numbers option_repeats"
_OPENING = "questions ends_asking ends_open opens_low opens_factual opens_what opens_how opens_acting"
_GROUPS = {
    "length": _SIZE,
    "wording": _WORDING,
    "numbers": _NUMBERS,
    "punctuation": _MARKS,
    "code": _CODE,
    "answer options": _OPTIONS,
    "way of asking": f"{_OPENING} asks",
    "parts": "items bullets",
    "wanted length": "length_asked output",
    "mathematics": "maths_marks mathematics",
    "conditions": "constraints",
    "likeness to the last question": "reask",
    "rejected answer before it": "rejected",
    "place in the conversation": "turn",
    "context": "context",
    "wanted form": "schema_depth",
    "kind of task": "task",
}
FEATURES = {name: noun for noun, names in _GROUPS.items() for name in names.split()}
"""What the features of the scorer are called in a sentence; any other by its own name."""


def place(route: Route) -> str:
    """Return a route as the subject of a sentence."""
    return "the device" if route is Route.ON_DEVICE else "the private cloud"


def noun(feature: str) -> str:
    """Return what a feature is called in a sentence."""
    return FEATURES.get(feature, feature.replace("_", " "))


def features(names: Iterable[str]) -> str:
    """List features as nouns, each once: "judged by length, code and numbers"; empty for none."""
    nouns = list(dict.fromkeys(map(noun, names)))
    return f", judged by {listed(nouns)}" if nouns else ""


def listed(nouns: list[str]) -> str:
    """Join nouns with commas and a last "and"."""
    return " and ".join(part for part in (", ".join(nouns[:-1]), nouns[-1]) if part)


def percent(share: float) -> str:
    """Return a share as people write it: 20 %, or 0.5 % where whole numbers would hide it."""
    return f"{100 * share:.0f} %" if share == 0 or share >= 0.01 else f"{100 * share:.2g} %"  # noqa: PLR2004


def beside(number: float, other: float) -> str:
    """Write with two decimals, and with four where two would hide a difference from the other."""
    return f"{number:.2f}" if f"{number:.2f}" != f"{other:.2f}" else f"{number:.4f}"
