"""Words near a number that say what it is. All over the plain form in lower case, so accents don't matter."""

import re

BEFORE = 60
"""Characters before a number in which a cue counts."""

AFTER = 20
"""Characters after it: ``555 1234 (office)``."""

_WORD = re.compile("[a-z]+")


def words(text: str) -> frozenset[str]:
    """Split a list of words."""
    return frozenset(text.split())


def words_of(text: str) -> frozenset[str]:
    """Return the words of a text in lower case."""
    return frozenset(_WORD.findall(text))


PHONE = words("""
phone phones telephone tel tele mobile cell cellphone fax whatsapp sms voicemail hotline helpline landline pager ph
mob handy telefon telefonnummer telefono telefone telefoon telefax tlf tfn telf movil celular cellulare gsm puhelin
matkapuhelin mobil mobilnummer fon switchboard dial dialing dialed dialled telephon telefonu telefonszam handynummer
rufnummer viber messenger textline callback phonenumber phoneno mobilenumber tlfn numer
""")
"""Nouns for a telephone."""

REACH = words("""
call calls calling called reach reachable ring rang text texts texting texted message messages contact contacting
contacted answering answered registered unreachable disconnected hotline helpdesk appelez appeler joindre llame
llamar llamame anrufen erreichen erreichbar chiamare chiama ligar ligue bellen bel ringa
""")
"""Words for reaching somebody: a cue for a number in a telephone's rhythm."""

_OWN_NUMBER = re.compile(
    r"\b(?:my|his|her|their|your|our|contact|home|work|new|old|emergency|direct|callback)"
    r" (?:[a-z]{1,12} )?(?:number|no|num|nr)\b|\bnum[eo]ro\b|\bnummer\b"
)
_PLACE = re.compile(
    r"(?:office|desk|home|work|direct|evening|reception|secretary|buro|privat|bureau|casa|oficina|lavoro)"
    r"(?: (?:no|nr|number|line))?[.:#= -]{0,3}$"
)
_PLACE_AFTER = re.compile(r"[ ,;(/\\-]{0,3}(?:office|desk|home|work|direct|fax|mobile|cell|tel|phone|buro|bureau)\b")
_ABROAD = re.compile(
    r"电话|電話|手机|手機|携帯|전화|휴대폰|هاتف|جوال|טלפון|โทร|फोन|\b(?:тел|телефон\w*|моб|мобильн\w*|звон\w*|τηλ|τηλεφων\w*"
    r"|κινητ\w*|טל)\b"
)
CARD = words("card cards visa mastercard amex maestro discover credit debit cc kreditkarte carte tarjeta carta cartao")
"""Words for a payment card."""

ACCOUNT = words("account iban acct konto compte cuenta conto conta rekening bank")
"""Words for a bank account."""

SOCIAL = words("ssn ssns social socialsecurity itin")
"""Words for a number of the US social security."""


IDENTITY = words("""
passport reisepass passeport pasaporte passaporto paspoort driver drivers driving dl fuhrerschein permis patente
rijbewijs tax taxpayer tin itin tfn utr steuer steuernummer nif cuit rfc fiscal vat nhs medicare medicaid health
insurance member mrn medical krankenversicherung krankenversichertennummer securite seguridad patient national nin
nino identity id personal identification social ssn green alien visa resident ausweis personalausweis ausweisnummer
personnummer personennummer fodselsnummer henkilotunnus cpr bsn burgerservicenummer dni nie cpf pesel cnp aadhaar
aadhar pan sin curp ahv rut nric pps ppsn kvnr
""")
"""Words in what a passport, licence, tax, health or identity number is called; `identifiers` reads the whole phrase."""

_OTHERS = words("""
number no num nr nummer numero office desk home work direct evening reception secretary buro privat bureau casa
oficina lavoro
""")
ANY = PHONE | REACH | CARD | SOCIAL | IDENTITY | _OTHERS
"""Every word that can let a number without a check or a sure rhythm count."""


class Near:
    """The words around one place of a text: 60 characters before it and 20 after, in the same line."""

    __slots__ = ("after", "around", "before")

    def __init__(self, lower: str, start: int, end: int) -> None:
        """Read the words around a place. lower: the whole text in lower case."""
        self.before = lower[max(0, start - BEFORE) : start]
        self.after = lower[end : end + AFTER].partition("\n")[0]
        self.around = frozenset(_WORD.findall(f"{self.before} {self.after}"))

    def has(self, cues: frozenset[str]) -> bool:
        """Whether one of these words is near."""
        return not cues.isdisjoint(self.around)

    def cued(self) -> bool:
        """Whether there is any word here that could let a number count."""
        return self.has(ANY) or not (self.before.isascii() and self.after.isascii())

    def phone(self) -> bool:
        """Whether a telephone is named."""
        if self.has(PHONE) or (not self.before.isascii() and _ABROAD.search(self.before)):
            return True
        return bool(_PLACE.search(self.before) or _PLACE_AFTER.match(self.after))

    def reach(self) -> bool:
        """Whether somebody is to be reached, or a number is somebody's own."""
        return self.has(REACH) or bool(_OWN_NUMBER.search(self.before))


NOWHERE = Near("", 0, 0)
"""No words at all."""
