"""Personal data: what is found, what is left alone, and that spans are valid."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.signals.pii.find import Span, find_pii, find_pii_in_documents, merge, redact

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
        ([("EMAIL", 0, 99)], r"span EMAIL \[0, 99\) must be in order and within \[0, 8\)"),
        ([("EMAIL", 4, 6), ("EMAIL", 5, 7)], r"span EMAIL \[5, 7\) must be in order and within \[6, 8\)"),
        ([("EMAIL", 0, 2)], "divides a character"),
    ],
)
def test_spans_of_another_text_are_refused(spans: list[tuple[str, int, int]], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        redact("aébcdef".encode(), spans)


def test_equal_bytes_elsewhere_are_not_touched() -> None:
    assert redact(b"a@b.io a@b.io", [("EMAIL", 7, 13)]) == b"a@b.io PI:EMAIL"


MISFIRES = {
    "versions": [
        "opencv-python==4.5.5.64",
        "Requires-Dist: brotlicffi>=1.2.0.0",
        "snapshot (1:11~++20200623122106+cd6848f)",
        "libfoo 1.2.3.4, v10.0.19041.1 and 10.0.19041.1",
        "Upgraded to 4.99.1.2",
        "nginx/1.2.3.4",
        "libfoo.so.1.2.3.4",
        "Standards-Version to 3.9.3.0.",
        "* xrandr 1.2.99.4",
        "from 1.2.99.2 to 1.2.99.4",
        "deps: patch V8 to 6.5.254.43",
        '"easy-xdm":"2.4.17.1"',
        "value 1.60.0.36 of version",
        "Java 1.8.0.131 update",
        "older than 1.2.8.1,",
        "[1.2.3.4,1.3.0.0)",
        ">= 1.11.1.1, < 2.0.0.0",
        "1.3.0.0 和 1.3.0.2",
        "left-pad@1.3.0.dev",
        "the 7.2.1.0 release",
    ],
    "sections and object identifiers": [
        "see 3.4.1.2 below",
        "(RFC 2616 section 8.1.2.2)",
        "1.3.6.1.4.1",
        "OID 1.3.6.1",
        "like 2.5.29.3.",
        "1.3.101.112",
        "節 1.3.2.1",
        "HTTP (RFC 7540 8.1.2.4)",
        "5.1.1.1. Addresses",
    ],
    "masks and special addresses": ["netmask 255.255.255.0", "0.0.0.0/0", "127.0.0.1:8080", "1.0.0.127.in-addr.arpa"],
    "dates and times": [
        'np.array(["+1980-02-29"])',
        "call : 2014-12-18",
        "mobile : 2016-06-02",
        "2001:02:03 04:05:06",
        "1999-2003",
        "12.11.2020 10:30",
        "+20191229111838",
        "20201231235959",
        "tel 31.12.2020",
        "1577836800000",
    ],
    "identifiers": [
        "ISBN 978-0-306-40615-7",
        "ISBN-13: 9780306406157",
        "ISSN 2049-3630",
        "doi:10.1000/182.12.34",
        "arXiv:2303.03915v1",
        "550e8400-e29b-41d4-a716-446655440000",
        "sha1 da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "00:1b:44:11:3a:b7",
        "order number: 555-234-5678",
        "Ticket #555-234-5678",
        "part no. 212-555-0123",
        "EAN 4006381333931",
        "#4111111111111111",
        "fuzzer-5499162606043136",
        "https://oss-fuzz.com/testcase-detail/5499162606043136",
        "RFC 5322",
        "id=18446744073709551615",
        "43:51:43:a1:b5:fc:8b:b7:0a:3a:a9:b1:0f:66:73:a8",
        'publicKeyToken="1fc8b3b9a1e18e3b"',
    ],
    "identifiers of messages": [
        "Message-ID: <jane.1@example.org>",
        "In-Reply-To: <20030528162613.GB8524@example.net>",
        "<514B5D8A.6040705@example.org>",
        "<dc1605ce-a47d-34c5-8851-d9569f9ea5d3@example.org>",
        "in <2609@jato.example.com>",
        "87bn3ssqg0.fsf@example.org",
        "<1409845851-38950-1-git-send-email-jane@example.com>",
        "CAKgNAkhNSWR3uYhYYaxx74fZfJ3JrpfAAP@mail.gmail.com",
        "<15090.61304.110929.45684@example.org>",
        "https://lore.kernel.org/git/x.y@example.org/",
    ],
    "names with @": [
        "@property and @x.setter",
        "@jane on a site",
        "@jane@mastodon.social",
        "npm i @types/node",
        "icon@2x.png",
        "$@ $(@D)",
        "\\cite@key.bib",
        "@INC.pm",
        "getty@tty1.service",
        "po/sr@latin.po",
        "aes256-gcm@openssh.com",
        "hmac-sha2-256-etm@openssh.com",
        "snd_pcm@ALSA.so",
        "user@host",
        "echo $user@example.com",
        "print('%s@example.com')",
        "HTTP/www.example.com@EXAMPLE.COM",
        "extensions by uuid (clock@example.org and dock@example.org)",
        "@Override.method",
        "obj@Class.name2",
    ],
    "logins": [
        "git clone git@github.com:jane/repository.git",
        "git+ssh://jane@git.example.org/x",
        "scp x jane@example.org:/tmp/",
        "ssh jane@example.org",
        "rsync -av jane@example.org:~/x .",
        "http://jane:secret@example.org:8080/",
        "[root@www.example.com ~]# ls",
    ],
    "code": [
        "std::vector<int>",
        "Foo::Bar::Baz",
        "x[2001::2] y[2000::10]",
        "a = b::1",
        "C++11 14 17 20 23",
        "sk-loading-spinner-circle/v2.css",
        "sk-ecdsa-sha2-nistp256-cert-v01",
        "token = exports2.STRICT_TOKEN.concat",
        "serve a token\n\n doc/manual/p11-kit-sections.txt",
        "private_key = ed25519.Ed25519PrivateKey.from_private_bytes",
        "api_key = your-api-key-here-123",
        "xoxb-your-token-here-please",
        '"-----BEGIN RSA PRIVATE KEY-----\\n"; t += wrap(key.getBase64()); t += "-----END RSA PRIVATE KEY-----"',
    ],
    "numbers": [
        "+3.140000 +1.12345679",
        "[+1.4142135623731*I]",
        "(-32768000, +32768000)",
        "+33554432",
        "+2.2178851811178331e+05 +4.9436e+05",
        "+12 345 678",
        "+1 000 000",
        "+1 2 3 4 5 6 7",
        "5352 5353 5354 5355 5356 5357",
        "0 0 2298 2299 3120 3121 -",
        "mpf((1, 6458161865649291, -53, 53))",
        "4828147466240000*t**12",
        "0000000 4548 5345 4952 2e20",
        "-1.23 4.56 7.89 10.11 12.13",
        "cell 12345678",
        "call 12345678 times",
        "a3.79 3.79 0 0 1-1.36.03c.21.6 1.86.44.54 1.01.9 1.71",
        "M0 .126 2.161.5.5 0 1 0 .68-.734c-.2",
    ],
    "coordinates": [
        "48.8566, 2.3522",
        "SN\t+1440-01726\tAfrica/Dakar",
        "US\t+404251-0740023\tAmerica/New_York",
        "40° 26′ 46″ N",
    ],
}


@pytest.mark.parametrize("text", [text for texts in MISFIRES.values() for text in texts])
def test_what_only_looks_like_personal_data_stays(text: str) -> None:
    assert find_pii(text) == []


FOUND_BESIDE_MISFIRES = [
    ("POD: E<lt>jane@cpan.orgE<gt>", "POD: E<lt>PI:EMAILE<gt>"),
    ("jane@example.comTel.: 1", "PI:EMAILTel.: 1"),
    ("Jane <jane@openssh.com>", "Jane <PI:EMAIL>"),
    ("q1204531485@163.com 31018228+jane@users.noreply.github.com", "PI:EMAIL PI:EMAIL"),
    ("References: jane.doe@example.edu", "References: PI:EMAIL"),
    ("Albert Cid <jane@example.org>", "Albert Cid <PI:EMAIL>"),
    ("https://example.org/list/jane@example.org/1", "https://example.org/list/PI:EMAIL/1"),
    ('{"uuid": "1", "email": "jane@example.org"}', '{"uuid": "1", "email": "PI:EMAIL"}'),
    ("jane@bücher.example Eero@häkkinen.fi", "PI:EMAIL PI:EMAIL"),
    ("jane@xn--bcher-kva.xn--p1ai", "PI:EMAIL"),
    ("version 2.4.9 connected from 81.2.69.142", "version 2.4.9 connected from PI:IP_ADDRESS"),
    ("DNS: 8.8.8.8\n     8.8.4.4", "DNS: PI:IP_ADDRESS\n     PI:IP_ADDRESS"),
    ("--dns=1.1.1.1 and 6.7.0.0/16", "--dns=PI:IP_ADDRESS and PI:IP_ADDRESS/16"),
    ("inet6 addr:2a00:1450:4001:81b::200e.", "inet6 addr:PI:IP_ADDRESS."),
    ("服务器地址是5.6.7.8。", "服务器地址是PI:IP_ADDRESS。"),
    ("(tel 011 959-2650)", "(tel PI:PHONE)"),
    ("тел.: 8 495 123-45-67", "тел.: PI:PHONE"),
    ("电话：010-61862498", "电话：PI:PHONE"),
    ("Phone: +49.30901820", "Phone: PI:PHONE"),
    ("Visa 4222222222222 and card 4111 1111 1111 1111 0827", "Visa PI:CREDIT_CARD and card PI:CREDIT_CARD 0827"),
]


@pytest.mark.parametrize(("text", "redacted"), FOUND_BESIDE_MISFIRES)
def test_is_found_although_it_looks_like_something_else(text: str, redacted: str) -> None:
    assert redact(text.encode(), find_pii(text)).decode() == redacted


def test_the_words_of_a_long_value_are_looked_at_once() -> None:
    """A pattern with more than one way to divide the letters would backtrack forever here."""
    value = "abcdefghijklmnopqrstuvwxyz" * 9 + "123456_1.x"
    assert find_pii(f"token = {value}") == [Span("KEY", 8, 8 + len(value))]
