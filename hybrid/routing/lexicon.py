"""Word lists of the structural features: what kind of work a request speaks of. English, without apostrophes."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


FACTUAL = _words("who when where whose whom whos whens wheres")
WHAT = _words("what which whats")
HOW = _words("how why explain describe derive prove")
EVERYDAY = _words(
    "set play turn remind show add call send start stop open make tell give put check book cancel please can could i "
    "id ill im my is are do does did has have let whats hi hello hey thanks order schedule find read transfer pay "
    "change remove delete create update switch wake increase decrease lower mute skip next email text message"
)

STEP_PHRASES = (
    "step-by-step",
    "step by step",
    "explain why",
    "explain how",
    "pros and cons",
    "trade-off",
    "tradeoff",
    "show your work",
    "show that",
    "think through",
    "root cause",
)
CONSTRAINT_PHRASES = ("at least", "at most", "no more than", "no less than", "such that", "as well as", "provided that")

LISTS: dict[str, frozenset[str]] = {
    "steps": _words(
        "plan plans compare contrast derive prove proof analyse analyze design implement optimise optimize "
        "evaluate assess outline organise organize solve refactor debug justify strategy algorithm architecture "
        "differ differs difference differences critique simulate diagnose investigate prioritise prioritize "
        "reason synthesise synthesize"
    ),
    "constraints": _words(
        "must exactly without only unless except ensure constraint constraints requirement requirements assume "
        "assuming given suppose respectively cannot avoid budget deadline maximum minimum either neither each "
        "every"
    ),
    "asks": _words("what why how when which where who whose whom"),
    "output": _words(
        "essay report article story poem script detailed detail comprehensive thorough complete full paragraphs "
        "chapter table list function program code class proposal novel speech dialogue scene lyrics"
    ),
    "negation": _words("not except false incorrect never least none neither nor isnt doesnt dont cannot wrong untrue"),
    "truth": _words("true false correct incorrect statement statements following both neither above"),
    "conditions": _words("if suppose assume let when then whether given unless otherwise would"),
    "comparing": _words(
        "more less than fewer greater larger smaller most least highest lowest same between versus better"
    ),
    "arithmetic": _words(
        "each total per times twice half remaining left altogether cost costs price sold buys bought spend spent "
        "earns average percent percentage ratio sum difference product divided multiply hours minutes days weeks "
        "dollars cents"
    ),
    "mathematics": _words(
        "equation function integer integers polynomial matrix vector derivative integral limit probability "
        "triangle circle angle prime group ring field subset finite infinite linear continuous theorem graph root "
        "roots solve solution compute calculate evaluate find value number real complex square cube area volume "
        "radius length sequence series variance distribution mean median random"
    ),
    "physics": _words(
        "velocity speed acceleration force mass energy power pressure temperature heat gas voltage current "
        "resistance circuit magnetic electric field wave wavelength frequency light momentum friction density "
        "fluid flow kg cm mm km newton joule watt volts atm pipe beam stress strain engine thermal steam air "
        "water"
    ),
    "chemistry": _words(
        "atom atoms molecule molecules reaction acid base solution ion ions electron electrons bond bonds mole "
        "moles molar oxidation compound compounds carbon hydrogen oxygen equilibrium enthalpy entropy "
        "concentration ph nmr isotope orbital catalyst polymer salt"
    ),
    "life": _words(
        "cell cells gene genes dna rna protein proteins species organism evolution blood patient disease heart "
        "brain muscle bone virus bacteria enzyme hormone plant plants animal animals treatment symptoms infection "
        "cancer"
    ),
    "society": _words(
        "law court act rights state states government constitution defendant plaintiff contract moral ethical "
        "ethics political war policy social culture religion philosophy argument theory human society history "
        "president party"
    ),
    "economy": _words(
        "market price demand supply cost costs profit revenue tax interest rate bond stock firm firms company "
        "inflation gdp investment capital income accounting marketing management bank account trade money"
    ),
    "mind": _words(
        "behavior behaviour learning memory anxiety therapy personality cognitive child children development"
    ),
    "programming": _words(
        "def return lambda assert list dict str int print len range append python function code string array loop "
        "sort sorted output input javascript java sql class import none else elif true false"
    ),
    "self": _words("i me my mine im id ive ill we our us"),
    "addressing": _words("you your please can could would thanks hey tell show give"),
    "everyday": _words(
        "alarm calendar remind reminder music song songs playlist weather today tomorrow tonight meeting email "
        "emails account card balance transfer timer lights volume news order restaurant flight hotel traffic "
        "shopping bill phone schedule appointment morning evening pm am"
    ),
    "stories": _words("said went came saw asked told looked his her she he they was were had then after"),
    "references": _words("this that these those it its such which following"),
    "joining": _words("because therefore since although however while but and or so thus hence"),
}

NAMES: tuple[str, ...] = tuple(LISTS)
GROUPS: dict[str, tuple[int, ...]] = {
    word: tuple(i for i, name in enumerate(NAMES) if word in LISTS[name])
    for word in sorted(frozenset().union(*LISTS.values()))
}
"""From a word to the positions of its lists."""
