"""Made-up personal data of every kind in prose, to measure how much of it is found."""

from __future__ import annotations

import ipaddress
import random
import string
from collections.abc import Callable
from typing import NamedTuple

from data_prep.signals.pii.keys import entropy


class Planted(NamedTuple):
    """A text, and the personal data in it."""

    kind: str
    text: str
    value: str


_FIRST = ["jane", "john", "mary", "li.wei", "ana-maria", "o.connor", "jürgen", "françois", "x", "j", "zoë", "max_m"]
_LAST = ["doe", "smith", "garcía", "müller", "nguyen", "ivanov", "okafor", "tanaka", "84", "dev"]
_DOMAINS = [
    "example.com",
    "mail.example.co.uk",
    "firma.de",
    "uni-köln.de",
    "gmail.com",
    "yahoo.fr",
    "proton.me",
    "sub.dom.example.org",
    "acme.io",
    "shop.nl",
    "correo.es",
    "posta.it",
    "example.com.br",
    "yandex.ru",
    "qq.com",
    "example.co.jp",
    "163.com",
    "xn--mnchen-3ya.de",
    "company.travel",
    "univ.edu",
    "agency.gov",
    "charity.ngo",
    "foto.photography",
    "stadt.berlin",
    "café.paris",
]


def _email(rng: random.Random) -> str:
    first, last = rng.choice(_FIRST), rng.choice(_LAST)
    local = rng.choice(
        [first, f"{first}.{last}", f"{first}_{last}", f"{first}{rng.randint(1, 2024)}", f"{first}+{last}"]
    )
    local = local if local[-1].isascii() else local + "n"
    address = f"{local}@{rng.choice(_DOMAINS)}"
    return address.upper() if rng.random() < 0.05 and address.isascii() else address


def _ipv4(rng: random.Random) -> str:
    while True:
        address = ipaddress.IPv4Address(rng.getrandbits(32))
        if address.is_global and not (address.is_multicast or address.is_reserved):
            return str(address)


def _ipv6(rng: random.Random) -> str:
    prefix = rng.choice(
        ["2001:4860", "2003:e1", "2400:cb00", "2606:4700", "2620:fe", "2a00:1450", "2a02:8109", "2c0f:f248"]
    )
    groups = [f"{rng.getrandbits(16):x}" for _ in range(6)]
    if rng.random() < 0.5:
        return f"{prefix}:{':'.join(groups[: rng.randint(1, 3)])}::{groups[-1]}"
    return f"{prefix}:{':'.join(groups)}"


def _ip_address(rng: random.Random) -> str:
    return _ipv4(rng) if rng.random() < 0.75 else _ipv6(rng)


_PHONES = [
    "+1 2##-5##-####",
    "+1 (2##) 5##-####",
    "(2##) 5##-####",
    "2##-5##-####",
    "2##.5##.####",
    "+12##5######",
    "+1-800-5##-####",
    "+1.2##.5##.####",
    "+49 30 9#####",
    "+49 (0)89 1234##",
    "+49 151 2#######",
    "+49-40-3#####-0#",
    "+4930######",
    "+44 20 7### ####",
    "+44 (0)161 4## ####",
    "+447#########",
    "+33 1 4# ## ## ##",
    "+33 (0)6 1# ## ## ##",
    "+336########",
    "+34 91# ### ###",
    "+34 6## ## ## ##",
    "+39 06 #### ####",
    "+39 347 ### ####",
    "+31 20 ### ####",
    "+31 6 ########",
    "+32 2 ### ## ##",
    "+41 44 6## ## ##",
    "+41 (0)55 2## ## ##",
    "+43 1 58####",
    "+43 664 ### ####",
    "+45 ## ## ## ##",
    "+46 8 ### ## ##",
    "+46 70-### ## ##",
    "+47 2# ## ## ##",
    "+48 22 ### ## ##",
    "+48 6## ### ###",
    "+420 2## ### ###",
    "+36 1 ### ####",
    "+40 21 ### ####",
    "+30 21# ### ####",
    "+351 21# ### ###",
    "+353 1 ### ####",
    "+358 9 ### ###",
    "+372 6## ####",
    "+370 5 ### ####",
    "+371 67 ### ###",
    "+380 44 ### ## ##",
    "+7 495 ###-##-##",
    "+7 (912) ###-##-##",
    "+79#########",
    "+90 212 ### ## ##",
    "+972-3-###-####",
    "+966 11 ### ####",
    "+971 4 ### ####",
    "+20 2 #### ####",
    "+27 11 ### ####",
    "+234 80# ### ####",
    "+254 7## ### ###",
    "+212 5 22 ## ## ##",
    "+91 98### #####",
    "+91-11-2### ####",
    "+92 300 ### ####",
    "+880 17## ######",
    "+86 10 6### ####",
    "+86 138 #### ####",
    "+852 2### ####",
    "+886 2 2### ####",
    "+81 3 #### ####",
    "+81-90-####-####",
    "+82 2 ### ####",
    "+82-10-####-####",
    "+84 24 3### ####",
    "+66 2 ### ####",
    "+65 6### ####",
    "+60 3-2### ####",
    "+62 21 ### ####",
    "+63 2 8### ####",
    "+61 2 9### ####",
    "+61 4## ### ###",
    "+64 9 ### ####",
    "+52 55 #### ####",
    "+55 11 9####-####",
    "+55 (21) 2###-####",
    "+54 11 4### ####",
    "+56 2 2### ####",
    "+57 601 ### ####",
    "+58 212 ### ####",
    "+51 1 ### ####",
    "+593 2 ### ####",
    "+598 2### ####",
    "+505 2### ####",
    "+502 2### ####",
]
_NAMED_PHONES = [
    "Tel.: 030 1######",
    "phone: 020 7### ####",
    "téléphone : 01 4# ## ## ##",
    "tel 0### ### ###",
    "Fax 089/######",
    "mobile: 07### ######",
    "teléfono: 91# ## ## ##",
    "Telefon: 0664/#######",
    "тел.: 8 495 ###-##-##",
    "电话：010-6#######",
    "Telefone (11) 9####-####",
    "Handy 0151 #######",
]


def _digits(rng: random.Random, form: str) -> str:
    return "".join(rng.choice("123456789") if sign == "#" else sign for sign in form)


def _phone(rng: random.Random) -> str:
    return _digits(rng, rng.choice(_PHONES))


def _luhn_digit(digits: str) -> str:
    total = 0
    for place, digit in enumerate(map(int, reversed(digits))):
        doubled = digit * 2 if place % 2 == 0 else digit
        total += doubled - 9 if doubled > 9 else doubled
    return str(-total % 10)


def _credit_card(rng: random.Random) -> str:
    prefix, length = rng.choice(
        [("4", 16), ("51", 16), ("55", 16), ("2221", 16), ("34", 15), ("37", 15), ("6011", 16), ("3530", 16)]
    )
    digits = prefix + "".join(rng.choice(string.digits) for _ in range(length - 1 - len(prefix)))
    digits += _luhn_digit(digits)
    separator = rng.choice(["", "", " ", "-"])
    ends = (4, 8, 12, 16) if length == 16 else (4, 10, 15)
    return separator.join(digits[start:end] for start, end in zip((0, *ends), ends, strict=False))


_IBANS = {
    "DE": "#" * 18,
    "GB": "WEST" + "#" * 14,
    "FR": "#" * 23,
    "ES": "#" * 20,
    "NL": "INGB" + "#" * 10,
    "IT": "X" + "#" * 22,
    "CH": "#" * 17,
    "AT": "#" * 16,
    "BE": "#" * 12,
    "PL": "#" * 24,
    "NO": "#" * 11,
    "SE": "#" * 20,
    "BR": "#" * 23 + "P1",
}


def _iban(rng: random.Random) -> str:
    country = rng.choice(list(_IBANS))
    account = _digits(rng, _IBANS[country])
    number = int("".join(str(int(sign, 36)) for sign in account + country + "00"))
    iban = f"{country}{98 - number % 97:02}{account}"
    return iban if rng.random() < 0.5 else " ".join(iban[start : start + 4] for start in range(0, len(iban), 4))


def _random(rng: random.Random, alphabet: str, length: int) -> str:
    return "".join(rng.choice(alphabet) for _ in range(length))


_ALPHANUMERIC = string.ascii_letters + string.digits


def _known_key(rng: random.Random) -> str:
    upper = string.ascii_uppercase + string.digits
    return rng.choice(
        [
            lambda: "AK" + "IA" + _random(rng, upper, 16),
            lambda: "gh" + "p_" + _random(rng, _ALPHANUMERIC, 36),
            lambda: "gl" + "pat-" + _random(rng, _ALPHANUMERIC, 20),
            lambda: "xo" + "xb-" + _random(rng, string.digits, 12) + "-" + _random(rng, _ALPHANUMERIC, 24),
            lambda: "AI" + "za" + _random(rng, _ALPHANUMERIC + "_-", 35),
            lambda: "sk-" + "1" + _random(rng, _ALPHANUMERIC, 47),
            lambda: "sk-" + "proj-1" + _random(rng, _ALPHANUMERIC + "_-", 60) + "x",
            lambda: "sk-" + "ant-api03-" + _random(rng, _ALPHANUMERIC + "_-", 90) + "x",
            lambda: "sk_" + "live_" + _random(rng, _ALPHANUMERIC, 24),
            lambda: "hf" + "_" + _random(rng, _ALPHANUMERIC, 34),
            lambda: ".".join(prefix + _random(rng, _ALPHANUMERIC, 40) for prefix in ("ey" + "J", "ey" + "J", "")),
        ]
    )()


_PRIVATE = "PRIVATE " + "KEY-----"


def _private_key(rng: random.Random) -> str:
    body = "\n".join(_random(rng, _ALPHANUMERIC + "+/", 64) for _ in range(rng.randint(2, 12)))
    kind = rng.choice(["", "RSA ", "EC ", "OPENSSH "])
    return f"-----BEGIN {kind}{_PRIVATE}\n{body}\n-----END {kind}{_PRIVATE}"


_KEY_NAMES = [
    'api_key = "{}"',
    "API_KEY={}",
    '"apiKey": "{}"',
    "access_token: {}",
    "Authorization: Bearer {}",
    "secret={}",
    "password: {}",
    "client_secret = '{}'",
    "SECRET_KEY: '{}'",
    "auth_token => '{}'",
    "private-key: {}",
    "token={}&x=1",
    "--password {} --host db",
]


def _named_key(rng: random.Random) -> tuple[str, str]:
    while True:
        alphabet = rng.choice(
            [_ALPHANUMERIC, string.ascii_lowercase + string.digits, "0123456789abcdef", _ALPHANUMERIC + "_-"]
        )
        value = _random(rng, alphabet, rng.choice([24, 32, 40]))
        least = 3.0 if alphabet == "0123456789abcdef" else 4.0
        has_both = any(map(str.isdigit, value)) and any(map(str.isalpha, value))
        if value[-1].isalnum() and has_both and entropy(value.encode()) > least:
            return value, rng.choice(_KEY_NAMES)


_PROSE = [
    "You can reach me at {}, any time.",
    "Bitte melden Sie sich unter {} bis Freitag.",
    "Contactez-nous : {}. Merci !",
    "Escríbanos a {} y le respondemos.",
    "Per informazioni: {} (ore 9-17)",
    "Пишите на {} или приходите.",
    "请联系 {} 谢谢。",
    "ご連絡は {} までお願いします。",
    "Our records show {} for this customer.",
    "<p>{}</p>",
    "\n{}\n",
    "- {}\n- nothing else\n",
    "He wrote {} on the back of the receipt; she kept it.",
    "Name: Doe; contact: {}; since 2019-04-01",
    '"{}"',
    "({})",
    "Last seen: {}",
    "Someone at {} edited the page.",
    "I logged 3 hits by {} on Monday.",
    "see {} for details",
    "{} did it",
    "we saw {} and then nothing",
    "requests by {}",
    "{}\t2021-03-04\tGET",
    "a,b,{},c",
    "[{}]",
    "<{}>",
    "sent via {} yesterday",
    "abuse: {}",
    "The number 5 is {}; nobody knows why",
]
_NETWORK_PROSE = [
    "The attack came from {} last night.",
    "Blocked {} after repeated vandalism.",
    "My IP address is {}, please unban me.",
    "Der Server {} antwortet nicht.",
    "Zugriff von {} um 12:30 Uhr.",
    "L'adresse {} est bannie.",
    "La dirección es {}.",
    "ssh root@{} -p 2222",
    "ping {}",
    "http://{}:8080/index.html",
    "Received: from mail.example.org ([{}])",
    '{} - - [10/Oct/2000:13:55:36 -0700] "GET / HTTP/1.0" 200 2326',
    '"client_ip": "{}",',
    "Failed password for root from {} port 22",
    "User talk:{}",
    "服务器地址是 {}。",
    "Адрес сервера: {}, порт 22",
    "Her router had {} at home.",
    "host={} user=jane",
    "DNS servers: {} and 192.0.2.1",
]
_CARD_PROSE = [
    "Please charge my card {} today.",
    "Visa {} exp 12/27",
    "Meine Kreditkarte ist {}.",
    "carte bancaire : {}",
    "tarjeta {} (válida)",
    "We took {} and the code from the back.",
    "Number: {}",
    "\n{}\n",
    "{}, 12/27, 123",
    "信用卡 {} 谢谢",
    "cc={}&cvv=123",
    "paid with {}.",
]


def planted(kind: str, count: int, seed: int = 20) -> list[Planted]:
    """Return examples of one kind, the same for the same seed."""
    rng = random.Random(f"{kind} {seed}")
    makers: dict[str, tuple[Callable[[random.Random], str], list[str]]] = {
        "EMAIL": (_email, _PROSE),
        "IP_ADDRESS": (_ip_address, _NETWORK_PROSE + _PROSE),
        "CREDIT_CARD": (_credit_card, _CARD_PROSE + _PROSE),
        "IBAN": (_iban, _PROSE),
        "PHONE": (_phone, _PROSE),
    }
    examples = []
    for number in range(count):
        if kind == "KEY":
            if number % 3 == 0:
                value, prose = _named_key(rng)
            else:
                value, prose = (_known_key if number % 3 == 1 else _private_key)(rng), rng.choice(_PROSE)
        elif kind == "PHONE" and number % 6 == 0:
            prose = _digits(rng, rng.choice(_NAMED_PHONES))
            value = prose[next(place for place, sign in enumerate(prose) if sign.isdigit() or sign == "(") :]
            prose = prose[: -len(value)] + "{}" + rng.choice(["", ".", ", bitte", "\n"])
        else:
            make, proses = makers[kind]
            value, prose = make(rng), rng.choice(proses)
            if kind == "IP_ADDRESS" and ":" in value and "http" in prose:
                prose = prose.replace("{}", "[{}]")
        examples.append(Planted(kind, prose.replace("{}", value), value))
    return examples


def is_found(example: Planted, spans: list[tuple[str, int, int]]) -> bool:
    """Whether a span of this kind covers the whole value and only a few characters beside it."""
    start = len(example.text[: example.text.index(example.value)].encode())
    end = start + len(example.value.encode())
    return any(kind == example.kind and begin <= start and end <= stop for kind, begin, stop in spans)
