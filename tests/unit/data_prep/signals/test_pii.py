"""Personal data: what is found, what is left alone, and that spans are sound."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.signals.pii import Span, find_pii, find_pii_in_documents, merge, redact

FOUND = [
    ("write to jane.doe+news@mail.example.co.uk.", "write to PI:EMAIL."),
    ("<a@b.io>, mailto:c_d@e.org?subject=x", "<PI:EMAIL>, mailto:PI:EMAIL?subject=x"),
    ("Füße an müller@firma.de, bitte", "Füße an PI:EMAIL, bitte"),
    ("邮箱abc@x.com。", "邮箱PI:EMAIL。"),
    ("to=x.y@z.com;", "to=PI:EMAIL;"),
    ("from 81.2.69.142, then", "from PI:IP_ADDRESS, then"),
    ("dns 8.8.8.8.", "dns PI:IP_ADDRESS."),
    ("http://81.2.69.142:8080/x", "http://PI:IP_ADDRESS:8080/x"),
    ("at 2001:4860:4860::8888 now", "at PI:IP_ADDRESS now"),
    ("[2a00:1450:4001:81b:0:0:0:200e]", "[PI:IP_ADDRESS]"),
    ("call +49 30 901820 or", "call PI:PHONE or"),
    ("+1 415-555-2671", "PI:PHONE"),
    ("+44 (0)20 7946 0958", "PI:PHONE"),
    ("(212) 555-0123", "PI:PHONE"),
    ("212-555-0123", "PI:PHONE"),
    ("Tel.: 030 1234567", "Tel.: PI:PHONE"),
    ("téléphone : 01 23 45 67 89.", "téléphone : PI:PHONE."),
    ("card 4111 1111 1111 1111!", "card PI:CREDIT_CARD!"),
    ("378282246310005", "PI:CREDIT_CARD"),
    ("5555-5555-5555-4444", "PI:CREDIT_CARD"),
    ("1 2 3 4 6011111111111117 5", "1 2 3 4 PI:CREDIT_CARD 5"),
    ("IBAN DE89 3704 0044 0532 0130 00.", "IBAN PI:IBAN."),
    ("GB82WEST12345698765432", "PI:IBAN"),
    ("key AKIA" + "IOSFODNN7EXAMPLE", "key PI:KEY"),
    ("ghp_" + "16C7e42F292c6912E7710c838347Ae178B4a", "PI:KEY"),
    ("API_KEY = 'Zq8" + "kP3vR7tN1xW5yB9cD2'", "API_KEY = 'PI:KEY'"),
    ("password=9f86d081" + "884c7d659a2feaa0c55ad015", "password=PI:KEY"),
    ("-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEowIBAAKCAQEA" * 4 + "\n-----END RSA PRIVATE KEY-----\n", "PI:KEY\n"),
]

LEFT_ALONE = [
    "version 1.2.3.4.5 is out",
    "v1.2.3.4 and version 10.20.30.40",
    "Chrome/99.0.48.51 Safari",
    "1.2.3.4-beta 1.2.3.4a x1.2.3.4",
    "999.1.2.3 and 1.2.3.256",
    "192.168.1.1 10.0.0.1 127.0.0.1 172.16.0.9 169.254.1.1 0.0.0.0 255.255.255.0 224.0.0.1",
    "192.0.2.1 198.51.100.7 203.0.113.5",
    "Siehe Abschnitt 9.2.1.4 und § 12.3.4.5, раздел 4.3.2.1, la sección 7.1.2.3, fig. 11.2.3.4",
    "8.1.6.1. A heading\n\n## 3.1.4.1 Another",
    "::1 fe80::1 2001:db8::1 fd00::1 12:34:56 aa:bb:cc:dd:ee:ff std::vector 2001::x",
    "3.14159265358979 0.1234567 1234567890 20231231 10000000",
    "2023-01-02 12:30:45 and 2023-01-02T12:30:45.123456",
    "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18",
    "4111 1111 1111 1112",
    "0000 0000 0000 0000",
    "0.4111111111111111",
    "DE89 3704 0044 0532 0130 01",
    "ISBN 978-3-16-148410-0",
    "@property and @override",
    "icon@2x.png getty@tty1.service left-pad@1.3.0 a@b",
    "user@@host.com a@.com",
    "password = correct_horse_battery",
    "token: aaaaaaaaaaaaaaaaaaaaaaaa1",
    "sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "the phone of 1234567",
]


@pytest.mark.parametrize(("text", "redacted"), FOUND)
def test_is_found_and_replaced(text: str, redacted: str) -> None:
    assert redact(text.encode(), find_pii(text)).decode() == redacted


@pytest.mark.parametrize("text", LEFT_ALONE)
def test_is_left_alone(text: str) -> None:
    assert find_pii(text) == []


def test_spans_count_bytes() -> None:
    assert find_pii("é a@b.io") == [Span("EMAIL", 3, 9)]


PIECES = [*(text for text, _ in FOUND), *LEFT_ALONE, "é", "\n", " ", "@", ".", "1"]


@given(st.lists(st.sampled_from(PIECES), max_size=12))
@settings(max_examples=150, deadline=None)
def test_spans_are_in_order_apart_and_on_character_boundaries(pieces: list[str]) -> None:
    text = "".join(pieces)
    spans = find_pii(text)
    for before, after in pairwise(spans):
        assert before.end <= after.start
    redacted = redact(text.encode(), spans).decode()
    assert redacted.count("PI:") >= len(spans)
    assert spans == find_pii(text)


@given(st.text(alphabet="0123456789 .-()+/:@aF_=", max_size=120))
@settings(max_examples=300, deadline=None)
def test_no_text_of_digits_and_signs_breaks_it(text: str) -> None:
    redact(text.encode(), find_pii(text)).decode()


def test_documents_do_not_run_into_each_other() -> None:
    texts = ["jane", "@example.org", "81.2.69", ".142", "4111 1111 ", "1111 1111", "a@b.io"]
    data = b"".join(text.encode() for text in texts)
    offsets = np.cumsum([0, *map(len, texts)]).astype(np.int64)
    found = find_pii_in_documents(np.frombuffer(data, dtype=np.uint8), offsets)
    assert found == [[], [], [], [], [], [], [Span("EMAIL", 0, 6)]]


def test_many_candidates_are_all_judged() -> None:
    text = "x@y.io " * 5000
    assert len(find_pii(text)) == 5000


def test_key_blocks_that_never_end_are_left_alone() -> None:
    assert find_pii("-----BEGIN PRIVATE KEY-----\n" * 2000) == []
    key = "-----BEGIN PRIVATE KEY-----\n" + "a" * 40 + "\n-----END PRIVATE KEY-----"
    assert find_pii("-----BEGIN PRIVATE KEY-----\n" + key) == [Span("KEY", 28, 28 + len(key))]


def test_finds_that_overlap_become_one() -> None:
    spans = [Span("PHONE", 5, 9), Span("EMAIL", 0, 7), Span("KEY", 0, 7), Span("IBAN", 20, 30), Span("PHONE", 22, 25)]
    assert merge(spans) == [Span("KEY", 0, 9), Span("IBAN", 20, 30)]


@pytest.mark.parametrize(
    ("spans", "why"),
    [
        ([("EMAIL", 0, 99)], r"span EMAIL \[0, 99\) must lie in \[0, 8\)"),
        ([("EMAIL", 4, 6), ("EMAIL", 5, 7)], r"span EMAIL \[5, 7\) must lie in \[6, 8\)"),
        ([("EMAIL", 0, 2)], "cuts a character in two"),
    ],
)
def test_spans_of_another_text_are_refused(spans: list[tuple[str, int, int]], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        redact("aébcdef".encode(), spans)


def test_equal_bytes_elsewhere_are_not_touched() -> None:
    assert redact(b"a@b.io a@b.io", [("EMAIL", 7, 13)]) == b"a@b.io PI:EMAIL"


@pytest.mark.parametrize(
    "text",
    [
        "opencv-python==4.5.5.64", "Requires-Dist: brotlicffi>=1.2.0.0", "snapshot (1:11~++20200623122106+cd6848f)",
        'np.array(["+1980-02-29"])', "C++11 14 17 20 23", "sk-loading-spinner-circle/v2.css",
    ],
)  # fmt: skip
def test_versions_dates_and_class_names_stay(text: str) -> None:
    assert find_pii(text) == []
