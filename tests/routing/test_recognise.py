"""What the recognisers find and what they leave alone, one form at a time."""

import random

import pytest

from hybrid.routing.recognisers.iban import FORMS, length
from hybrid.routing.recognisers.recognise import Span, private, recognise
from tests.routing.documents import iban

LONG_NUMBER = "4111 1111 1111 1111"  # the test number of every payment service


def found(text: str) -> list[tuple[str, str]]:
    return [(span.type, text[span.start : span.end]) for span in recognise(text)]


WHOLE = {
    "EMAIL_ADDRESS": (
        "john@x.org|me+tag@sub.mail.example.co.uk|o'brien@a-b.museum|müller@bücher.de|a_b-c.d@web.de"
        "|x@xn--bcher-kva.com"
    ),
    "CREDIT_CARD": (
        "4111111111111111|4111 1111 1111 1111|4111-1111-1111-1111|4111.1111.1111.1111|378282246310005"
        "|3782 822463 10005"
        "|30569309025904|6011111111111117|3530111333300000|2223003122003222|4222222222222|501800000009"
        "|6759649826438453"
    ),
    "IBAN_CODE": (
        "GB82WEST12345698765432|GB82 WEST 1234 5698 7654 32|gb82west12345698765432|DE89 3704 0044 0532 0130 00"
        "|NL91-ABNA-0417-1643-00|NO9386011117947|MT84MALT011000012345MTLCAST001S|FR14 2004 1010 0505 0001 3M02 606"
    ),
    "US_SSN": "308-63-0237|308 63 0237|308.63.0237",
    "PHONE_NUMBER": (
        "+1 (212) 555-0123|+1-212-555-0123x44|(212)555-0123|212.555.0123|212-555-0123 ext. 9|001-748-088-2851x818"
        "|+44 (0)20 7946 0958"
        "|+442079460958|0049 30 123456|020 7946 0958|07700 900123|0431 19 97 94|06-24312407|02.27.96.63.08"
        "|50-98-28-96|(88) 684-334"
        "|(027) 7972-805|(11) 4706-6184|070-073-058|8 (495) 123-45-67|+91 98450 12345|010-1234-5678|0910-5877671"
        "|(+57)3144558633"
    ),
    "IP_ADDRESS": (
        "86.231.85.193|10.218.6.131|d80:e4b5:79da:6cf6:71f3:51f7:9161:c319|2606:4700:4700::1111"
        "|::ffff:93.184.216.34|fe80::1ff:fe23:4567%eth0"
    ),
    "SECRET": (
        "AKIAIOSFODNN7EXAMPLE|ghp_abcdefghijklmnopqrstuvwxyz0123456789|sk-proj-abcdefghij0123456789abcd"
        "|xoxb-123456789012-abcdefGHIJ"
        "|eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl|hf_abcdefghijklmnopqrstuvwxyz012345"
        "|AIzaSyA1234567890abcdefghijklmnopqrstuv"
    ),
    "NATIONAL_ID": (
        "131052-308T|RSSMRA85T10A562S|756.9217.0769.85|390.533.447-05|811228-9874|12345678Z|S1234567D"
        "|11010519491231002X"
        "|255081416802538|85.07.30-033.28|736028/5163|12.345.678-5|HEGG560427MVZRRL04"
    ),
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name in WHOLE for text in WHOLE[name].split("|")])
def test_a_valid_one_is_found_whole_without_a_word_for_it(name: str, text: str) -> None:
    assert (name, text) in found(f"Please look at {text} today.")
    assert (name, text) in found(text)


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("They're not answering at 785 8949", "PHONE_NUMBER", "785 8949"),
        ("you can call 33 93 31", "PHONE_NUMBER", "33 93 31"),
        ("2813882583 mobile", "PHONE_NUMBER", "2813882583"),
        ("9885 1152-Office", "PHONE_NUMBER", "9885 1152"),
        ("Phone:\n92 34 70", "PHONE_NUMBER", "92 34 70"),
        ("my number is 469 34 883", "PHONE_NUMBER", "469 34 883"),
        ("电话:13812345678", "PHONE_NUMBER", "13812345678"),
        ("SSN 308630237", "US_SSN", "308630237"),
        ("card 41111 11111 11111 1", "CREDIT_CARD", "41111 11111 11111 1"),
        ("my password is Tr0ub4dor&3.", "SECRET", "Tr0ub4dor&3"),
        ('"api_key": "a8f5f167f44f4964e6c998dee827110c"', "SECRET", "a8f5f167f44f4964e6c998dee827110c"),
        ("postgres://app:p4ssw0rd@db/x", "SECRET", "p4ssw0rd"),
        ("Authorization: Bearer abcdef0123456789abcdef", "SECRET", "abcdef0123456789abcdef"),
        ("My driver's license number is LH329609T", "NATIONAL_ID", "LH329609T"),
        ("driving licence MORGA657054SM9IJ", "NATIONAL_ID", "MORGA657054SM9IJ"),
        ("Passport No: C01X00T47", "NATIONAL_ID", "C01X00T47"),
        ("my NINO is QQ 12 34 56 C", "NATIONAL_ID", "QQ 12 34 56 C"),
        ("NHS number 943 476 5919", "NATIONAL_ID", "943 476 5919"),
        ("Aadhaar 2345 6789 0123", "NATIONAL_ID", "2345 6789 0123"),
        ("the server at ::1", "IP_ADDRESS", "::1"),
    ],
)
def test_a_word_nearby_makes_a_number_count(text: str, name: str, value: str) -> None:
    assert found(text) == [(name, value)]


@pytest.mark.parametrize("value", ["785 8949", "469 34 883", "308630237", "943476591", "2813882583"])
def test_without_the_word_the_same_number_is_nothing(value: str) -> None:
    assert found(f"The result is {value} in all") == []


HARMLESS = (
    "2020-01-02 10:11:12|01/02/2003|02.03.2004|1995-2003|1936-39|pages 1234-5678|between 1000000 and 2000000"
    "|3.14159265|$1,234,567.89"
    "|1 234 567|ISBN 978-3-16-148410-0|order 123456789|lat 40.712776, -74.005974|f(12) 345678"
    "|timestamp 1700000000000|12:34:56"
    "|aa:bb:cc:dd:ee:ff|call 911|call option at 105000|line 123456|reach 1000000 users|version 1.2.3.4"
    "|std::vector<int>::iterator"
    "|a[1::2]|package@1.2.3|@app.route|user@host|10 20 30 40 50 60|0.123456 0.234567|4000 4100 4200 4300 4400"
    "|the secret is out"
    "|password = os.environ['X']|token = get_token()|1Z999AA10123456784|sin 120000 degrees|0 1 1 2 3 5 8 13 21"
    "|tax rate 0.125000"
    "|Call f(1234567)|2^31 = 2147483648|id: 6f1e2d3c4b5a|room 2 12 345|1,2,3,4,5,6,7,8|telephone poles: 12"
    "|0123456789|000000000000"
)


@pytest.mark.parametrize("text", HARMLESS.split("|"))
def test_what_only_looks_like_a_number_of_somebody_is_left_alone(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize(
    "text",
    ["4111 1111 1111 1112", "4111111111111112", "378282246310006", "GB82WEST12345698765433", "DE89370400440532013001",
     "131052-308U", "RSSMRA85T10A562T", "12345678A", "390.533.447-06", "000-12-3456", "666-12-3456", "900-12-3456",
     "308-00-0237", "308-63-0000", "999.1.1.1", "256.256.256.256"],
)  # fmt: skip
def test_a_failed_check_gets_no_type(text: str) -> None:
    assert found(f"Please look at {text} today.") == []


@pytest.mark.parametrize(
    "text", ["my card 4111 1111 1111 1112", "credit card: 378282246310006", "IBAN GB82 WEST 1234 5698 7654 33"]
)
def test_a_mistyped_card_or_account_is_still_a_secret_beside_its_word(text: str) -> None:
    assert [name for name, _ in found(text)] == ["NATIONAL_ID"]


@pytest.mark.parametrize("country", sorted(FORMS))
def test_an_account_number_is_cut_at_the_length_of_its_country(country: str) -> None:
    number = iban(random.Random(country), country)  # noqa: S311 - repeatable, no secret
    text = f"from {number} to other bank accounts"
    span = next(s for s in recognise(text) if s.type == "IBAN_CODE")
    assert text[span.start : span.end] == number
    assert len(number.replace(" ", "")) == length(FORMS[country])


@pytest.mark.parametrize(
    ("address", "public"),
    [("8.8.8.8", True), ("10.0.0.1", False), ("192.168.1.1", False), ("127.0.0.1", False), ("203.0.113.9", False),
     ("2606:4700:4700::1111", True), ("2001:db8::1", False), ("fe80::1ff:fe23:4567", False)],
)  # fmt: skip
def test_only_a_public_ip_address_is_private_data(address: str, public: bool) -> None:
    spans = recognise(f"from {address}")
    assert [s.type for s in spans] == ["IP_ADDRESS"]
    assert private(spans) is public


def test_a_private_key_is_marked_to_its_end() -> None:
    text = "key:\n-----BEGIN RSA PRIVATE KEY-----\nMIIabc\n-----END RSA PRIVATE KEY-----\nbye"
    (span,) = recognise(text)
    assert (span.type, text[span.end :]) == ("SECRET", "\nbye")


def test_several_numbers_in_a_row_are_each_found() -> None:
    text = "555-123-4567, 555-987-6543 and (212) 555-0123 ext 12; 4111 1111 1111 1111 exp 12/25"
    assert [name for name, _ in found(text)] == ["PHONE_NUMBER"] * 3 + ["CREDIT_CARD"]


def test_values_of_a_table_in_commas_are_each_read_and_thousands_are_one_number() -> None:
    assert [name for name, _ in found("1,308-63-0237,7,978-249-9678,9,4111111111111111,2")] == [
        "US_SSN",
        "PHONE_NUMBER",
        "CREDIT_CARD",
    ]
    assert found("1,234,567,890 and 3,14159265") == []


def test_groups_of_an_account_number_are_no_telephone_number_besides() -> None:
    assert found("IBAN DE89 3704 0044 0532 0130 00, call me") == [("IBAN_CODE", "DE89 3704 0044 0532 0130 00")]


def test_strict_adds_names_addresses_birth_dates_and_health() -> None:
    text = "Dr. Ann Lee lives at 12 Baker Street, born on 3/23/1940. My doctor says hello. p@x.org"
    assert [s.type for s in recognise(text)] == ["EMAIL_ADDRESS"]
    assert {s.type for s in recognise(text, strict=True)} == {
        "PERSON",
        "ADDRESS",
        "BIRTH_DATE",
        "HEALTH",
        "EMAIL_ADDRESS",
    }


def test_spans_come_in_order_of_place() -> None:
    spans = recognise(f"a@b.org {LONG_NUMBER} 8.8.8.8")
    assert list(spans) == sorted(spans)
    assert spans[0] == Span(0, 7, "EMAIL_ADDRESS")
