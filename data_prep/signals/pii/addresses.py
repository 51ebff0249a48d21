"""E-mail addresses and public IP addresses.

Both are ambiguous: `user@host` may be a login, the name of an algorithm or the identifier of a message, and four
numbers with points may be a version, a section or part of a drawing. The context decides.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from pathlib import Path

from data_prep.signals.pii.spans import Span

_LETTER = rb"(?:[A-Za-z0-9]|[\xc3-\xd5][\x80-\xbf])"  # with é, ß, Cyrillic and Greek
_LOCAL_PART = re.compile(rb"(?:[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]|[\xc3-\xc9][\x80-\xbf]){1,64}\Z")  # with é, ß, ø, ...
_DOMAIN = re.compile(
    rb"@((?:" + _LETTER + rb"(?:(?:" + _LETTER + rb"|-){0,61}" + _LETTER + rb")?\.){1,8}"
    rb"(xn--[A-Za-z0-9-]{2,20}[A-Za-z0-9]|[A-Za-z]{2,24}|(?:[\xc3-\xd5][\x80-\xbf]){2,12}))"
    rb"(?!" + _LETTER + rb"|-[A-Za-z0-9]|\.[A-Za-z0-9])"
)
_CAPITALISED_WORD_AFTER = re.compile(rb"([A-Za-z][a-z]{1,22})(?=[A-Z])")
_FILE_ENDINGS = frozenset(b"java md mov property py so target zip".split())
"""Top-level domains that are rarely used for mail and are common file extensions: `getty@basic.target`."""
_SPECIAL_DOMAINS = frozenset(
    b"corp domain example home internal intranet invalid lan local localdomain localhost tld test"  # of no one
    b" an cs uucp yu".split()  # of the past
)
"""Top-level domains of examples, local networks and old mail, which are not in IANA's list."""
_NUMBERED_DOMAIN = re.compile(rb"@(?:v?\d+\.){2,}[a-z]+\Z")
"""Versions of packages: `left-pad@1.3.dev`."""

_NAME_OF_IDENTIFIER_BEFORE = re.compile(
    rb"(?:(?:message|content|article|envelope|news|msg|mail)[-_ ]?ids?|in-reply-to|\bmsgid|\b[cm]id(?=[:=])"
    rb"|\(cf\.)[\"')\]]{0,2}\s?[:=]?\s{0,3}[<\"'\[(]{0,2}\Z",
    re.IGNORECASE,
)
_EXTENSIONS_BEFORE = re.compile(
    rb"\buuids?[^\n\":=,;(]{0,40}\((?:[^\s()@]{1,40}@[^\s()@]{1,40} \S{1,8} )?\Z", re.IGNORECASE
)
"""`by their uuid (clock@example.org and dock@example.org)`: names of GNOME's extensions."""
_IDENTIFIER_BRACKET_BEFORE = re.compile(rb"(?:\b(?:in|id|cf\.?|references):?\s{1,3}|>\s{1,3})<\Z", re.IGNORECASE)
"""Contexts in which `<2609@jato.jpl.nasa.gov>` is a message and `<jane@example.org>` is not."""
_ARCHIVE_BEFORE = re.compile(
    rb"(?:lore\.kernel|lkml\.kernel|mid\.gmane|msgid|message-id|mid\.mail-archive)[^\s@]{0,40}/\Z"
)
_IDENTIFIER = re.compile(
    rb"(?:"
    rb"(?:19|20)\d\d[01]\d[0-3]\d\d{2,8}[.-][0-9A-Za-z].*"  # 20030528162613.GB8524
    rb"|(?=.*\d)[0-9A-Fa-f]{8,14}\.[0-9A-Fa-f]{5,}"  # 514B5D8A.6040705
    rb"|(?=.*\d)[0-9A-F]{10,14}\.[0-9A-F]{8}.*"
    rb"|[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}.*"
    rb"|(?=.*\d)[0-9a-f]{20,}|\d{14,}|\d+(?:\.\d+){2,}"
    rb"|\d{9,}-\d{2,}-\d{1,3}-.*"  # 1409845851-38950-1-git-send-email-jane
    rb"|.*\.(?:fsf(?:_-_)?|camel)|.*\b(?:JavaMail|alpine|Pine)\..*"
    rb"|\d{4}[A-Z][a-z]{2}\d{1,2}\.\d{5,}\..*"  # 1992Jul2.222039.26476
    rb"|OF[0-9A-F]{8}\.[0-9A-F]{8}-ON.*"
    rb"|\d{6,}\.(?=.*[A-Z])(?=.*[a-z])(?=.*\d)[0-9A-Za-z]{8,}"  # 2008899.25OeoelVVA
    rb"|(?=(?:[A-Z]*\d){4})(?=(?:\d*[A-Z]){3})[0-9A-Z]{12,}"  # 0GK500B01D0B8Y
    rb")\Z"
)
"""Local parts that mail programs generate for messages."""
_ARCHIVED_DOMAINS = frozenset((b"mail.gmail.com", b"email.amazonses.com"))
"""Domains of messages and machines, not of people."""
_ALGORITHM_DOMAINS = frozenset((b"openssh.com", b"libssh.org", b"tinyssh.org"))
_ALGORITHM = re.compile(
    rb"(?:aes\d{3}-|hmac-|umac-\d|chacha20-|curve25519-|sntrup|mlkem\d|ecdsa-sha2-|ssh-(?:rsa|dss|ed25519)|sk-(?:ssh|ecdsa)-"
    rb"|rsa-sha2-|rijndael-cbc)"
)
"""`aes256-gcm@openssh.com`: names of SSH that end with the domain of their author. Source: RFC 4251, section 6."""
_USER_OF_URL_BEFORE = re.compile(rb"(?<![A-Za-z0-9])(?!mailto)[A-Za-z][A-Za-z0-9+.-]{1,15}://[^\s/@,;<>\"']{0,64}\Z")
_REMOTE_PATH_AFTER = re.compile(rb":(?:[~/]|[A-Za-z0-9_.~+-]{1,64}(?:/|\.git\b))")
_REPOSITORY_USERS = frozenset((b"git", b"hg", b"svn"))
_LOGIN_BEFORE = re.compile(
    rb"(?<![A-Za-z0-9_-])(?:ssh|scp|sftp|rsync|mosh|sshfs|ssh-copy-id|slogin|telnet)"
    rb"(?: -[A-Za-z0-9-]{1,20}(?: [\w./~:-]{1,30})?){0,3} [\"']?\Z"
)
_PROMPT_AFTER = re.compile(rb" [~/A-Za-z0-9_.-]{1,40}\][#$%]")
_SERVICE_BEFORE = re.compile(
    rb"(?<![A-Za-z0-9])(?:host|https?|nfs|cifs|ldap|imap|smtp|krbtgt|kadmin|ftp|postgres|mysql|kafka|zookeeper|hdfs|hive)/\Z",
    re.IGNORECASE,
)
"""`HTTP/www.example.com@EXAMPLE.COM`: a Kerberos principal."""
_CONVERSION = re.compile(rb"-?\d{0,3}[sdiuxcnrp]\Z")
"""End of a local part that is a placeholder, as in `%s@example.com`."""

_OCTET = rb"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_QUAD = rb"(?:" + _OCTET + rb"\.){3}" + _OCTET
_IPV4 = re.compile(_QUAD + rb"(?![\w-]|\.\d|\.\*|[+~]\w)")
_OTHER_IPV4 = re.compile(rb"(?<![\w.-])(" + _QUAD + rb")(?![\w-]|\.\d)")
_NUMBERED_THINGS = (
    "v|ver|version|versions|release|releases|rfc|firmware|kernel|section|sections|sec|sect|chapter|clause|paragraph|article|"
    "appendix|annex|figure|fig|table|step|item|revision|rev|build|oid|abschnitt|kapitel|ziffer|punkt|artikel|absatz|anhang|"
    "abbildung|tabelle|chapitre|paragraphe|annexe|figura|tabla|sección|seccion|capítulo|capitulo|artículo|articulo|seção|"
    "secao|sezione|capitolo|paragrafo|versión|versão|versione|versie|wersja|wersji|hoofdstuk|paragraaf|rozdział|раздел|Раздел|"
    "глава|Глава|пункт|Пункт|версия|версии|Версия|版本|バージョン|버전|§"
)
_VERSION_BEFORE = re.compile(
    rb"(?<![A-Za-z0-9])(?:" + _NUMBERED_THINGS.encode() + rb")[\"']?[.:= ]{0,3}[\"']?\Z", re.IGNORECASE
)
_REQUIREMENT_BEFORE = re.compile(rb"[=<>~!]=[ ]?\Z|[<>][ ]\Z|(?<![\d.:])\d:\Z")
"""`package==4.5.5.64`, as requirements are written, and the epoch of `1:4.1.4.2`."""
_DRAWING = re.compile(rb"(?<![\w.)\]])-?\.\d")
"""Numbers that begin with a point, as in paths of drawings: `-.47`."""
_NEAR_BYTES, _FAR_BYTES = 48, 64
_RESOLVERS = frozenset(("8.8.8.8", "8.8.4.4", "9.9.9.9"))
_OBJECT_IDENTIFIERS = frozenset(((1, 3), (2, 5)))
"""Beginnings of object identifiers: `1.3.101.112`, `2.5.29.15`."""
_LARGEST_OF_VERSIONS, _LARGEST_FIRST_OF_VERSIONS, _TINY = 99, 30, 10
"""Limits of versions, which count up slowly: the first number is small, and so are nearly all others; two are tiny."""
_LIKE_SOME_VERSIONS, _LIKE_VERSIONS = 1, 2
_ABOUT_VERSIONS = re.compile(
    rb"(?:versi|verze|releas|revisi|upgrad|updat|bump|patch|downgrad|rebas|polic|standard|changelog|build|driver|firmware"
    rb"|kernel|since|require|sdk\b|runtime|j[dr]k\b|\bv8\b|\boid|\bv=|av=|\brev\b|\blib[a-z]|java|chrom|firefox"
    rb"|\b[a-z]{2,20}-[a-z]{2,20} \(|\bthan\b)",
    re.IGNORECASE,
)
_IS_VERSION_AFTER = re.compile(
    rb"[\"')\]]{0,2} (?:release|version|patch|build|snapshot|or (?:later|above|newer|higher|earlier))"
)
_NETWORK_WORDS = (
    "ip|ips|ipv4|ip4|addr|address|addresses|adresse|adressen|adres|adresu|dirección|direccion|endereço|endereco|indirizzo|"
    "adresa|host|hosts|hostname|hôte|hote|server|servers|serveur|servidor|servidores|serveurs|serwer|dns|resolver|nameserver|"
    "nameservers|gateway|gw|passerelle|netmask|mask|subnet|network|net|route|router|ping|traceroute|inet|proxy|vpn|firewall|"
    "peer|client|remote|local|bind|listen|connect|connected|login|src|dst|source|destination|via|mx|ntp|whois|ssh|curl|wget|"
    "nmap|dig|telnet|rhost|lhost|endpoint|user|users|visitor|node|machine|rechner|адрес|адресу|адреса|айпи|сервер|сервера|"
    "сервере|хост|地址|服务器|主机|アドレス|サーバ|サーバー|ホスト|주소|서버"
)
_NETWORK_WORD_BEFORE = re.compile(
    rb"(?:(?<![A-Za-z0-9])(?:" + _NETWORK_WORDS.encode() + rb")|[a-z_-]_?ip|IP)[^A-Za-z0-9.\n]{0,6}"
    rb"(?:(?:is|was|had|has|at|to|of|on|with|for|the|from|range|ist|lautet|von|es|est|de|do|da|\xc3\xa8|\xc3\xa9|\xe6\x98\xaf|"
    rb"\xe4\xb8\xba|\xe3\x81\xaf|\xeb\x8a\x94)[^A-Za-z0-9.\n]{1,4}){0,2}\Z",
    re.IGNORECASE,
)
"""A word about networks, in several languages, directly before, with at most a few small words between."""
_VERSION_BESIDE_BEFORE = re.compile(rb"(?<![\d.])(?:\d{1,5}\.){2,3}\d{1,5}[,;]?[ \t\n]\Z")
_VERSION_BESIDE_AFTER = re.compile(rb"[,;]?[ \t\n](?:\d{1,5}\.){2,3}\d{1,5}(?![\d.])")
_NETWORK_AFTER = re.compile(
    rb"(?:(?<=\.0)/\d{1,2}(?![\w.])|:\d{2,5}|/(?:2[4-9]|3[0-2]))(?![\w.])|\]\)|[ ]\(?port\b| - \S{1,20} \["
)
_NETWORK_BEFORE = re.compile(rb"(?:://|@\[?|ip[=:/ ][\"'(]?)\Z", re.IGNORECASE)

_IPV6 = re.compile(rb"[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,35}(?![\w:]|\.\w)")
_ALLOCATED_IPV6 = re.compile(
    rb"(?:200[1-3]|24[01][0-9a-f]|26[0-4][0-9a-f]|28[0-1][0-9a-f]|2a[01][0-9a-f]|2c0[0-9a-f]):", re.IGNORECASE
)
"""Source: IANA, IPv6 global unicast address assignments."""
_LEAST_IPV6_GROUPS = 3
_HEXADECIMAL_LETTER = re.compile(rb"[A-Fa-f]")


@functools.cache
def top_level_domains() -> frozenset[bytes]:
    """Lower-case names of IANA's list, in Punycode and in UTF-8."""
    names = Path(__file__).with_name("top_level_domains.txt").read_text(encoding="ascii").split()
    unicode_names = [name[4:].encode().decode("punycode") for name in names if name.startswith("xn--")]
    return frozenset(name.encode() for name in names + unicode_names) - _FILE_ENDINGS | _SPECIAL_DOMAINS


def email(data: bytes, at: int) -> Span | None:
    domain = _DOMAIN.match(data, at)
    if domain is None:
        return None
    end = _end_of_domain(domain)
    if end is None:
        return None
    window = max(at - 65, 0)
    local = _LOCAL_PART.search(data[window:at])  # at the end of the window, so it is one match of at most 64 bytes
    if local is None:
        return None
    start = window + local.start()
    part = local[0]
    # characters that are allowed in a local part but in practice precede it: quotes, slashes, `key=value`, `mailto:`
    cut = max(
        part.rfind(byte)
        for byte in (b"=", b"/", b"`", b"'", b"|", b"{", b"}", b"?", b"&", b"!", b"*", b"#", b"$", b"%")
    )
    start += cut + 1
    part = part[cut + 1 :]
    stripped = part.lstrip(b".-+~^")
    start += len(part) - len(stripped)
    if not stripped or stripped.endswith(b".") or b".." in stripped:
        return None
    if _is_identifier(data, start, stripped, data[at + 1 : end].lower()) or _is_login(data, start, stripped, end):
        return None
    return Span("EMAIL", start, end)


def _end_of_domain(domain: re.Match[bytes]) -> int | None:
    """Return where the top-level domain ends, which a capitalised word may follow without a blank; None: there is
    none."""
    known = top_level_domains()
    name = domain[2]
    end = None
    if name.decode().lower().encode() in known:
        end = domain.end()
    elif (glued := _CAPITALISED_WORD_AFTER.match(name)) is not None and glued[1].lower() in known:
        end = domain.start(2) + glued.end()
    if end is None or _NUMBERED_DOMAIN.match(domain.string, domain.start(), end):
        return None
    return end


def _is_identifier(data: bytes, start: int, local: bytes, domain: bytes) -> bool:
    """Return whether it is the identifier of a message, an algorithm or a service."""
    before = data[max(start - 64, 0) : start]
    if _IDENTIFIER.match(local) or _ALGORITHM.match(local) or domain in _ARCHIVED_DOMAINS:
        return True
    if domain in _ALGORITHM_DOMAINS and not (domain.startswith(local.lower() + b".") or before.endswith(b"<")):
        return True
    if before.endswith((b"(", b" ")) and _EXTENSIONS_BEFORE.search(data[max(start - 140, 0) : start]):
        return True
    if _NAME_OF_IDENTIFIER_BEFORE.search(before) or _ARCHIVE_BEFORE.search(before):
        return True
    if local[:1].isdigit() and _IDENTIFIER_BRACKET_BEFORE.search(before):
        return True
    if before.endswith((b"@", b"$")):  # @jane@mastodon.example, $user@host
        return True
    if before.endswith(b"%") and _CONVERSION.match(local):
        return True
    return before.endswith(b"/") and _SERVICE_BEFORE.search(before) is not None


def _is_login(data: bytes, start: int, local: bytes, end: int) -> bool:
    """Return whether it names a user of a machine: in a URL, before a path, after `ssh`, in a prompt."""
    before = data[max(start - 96, 0) : start]
    if b"://" in before and _USER_OF_URL_BEFORE.search(before):
        return True
    if _REMOTE_PATH_AFTER.match(data, end) or (before.endswith(b"[") and _PROMPT_AFTER.match(data, end)):
        return True
    if local in _REPOSITORY_USERS and data[end : end + 1] in (b":", b"/"):
        return True
    return _LOGIN_BEFORE.search(before) is not None


def ipv4(data: bytes, at: int) -> Span | None:
    match = _IPV4.match(data, at)
    if match is None:
        return None
    before = data[max(at - _FAR_BYTES, 0) : at]
    if before and (before[-1:].isalnum() or before[-1] in b"_-."):
        return None
    if before.endswith(b"/") and not before.endswith(b"//"):  # Chrome/91.0.64.12
        return None
    if _VERSION_BEFORE.search(before) or _REQUIREMENT_BEFORE.search(before):
        return None
    address = match[0].decode()
    if data.startswith(b".in-addr.", match.end()):
        address = ".".join(reversed(address.split(".")))
    if not _is_public_v4(address):
        return None
    likeness = _likeness_to_version(match[0])
    may_stand_alone = likeness == _LIKE_SOME_VERSIONS
    if likeness and address not in _RESOLVERS and not _is_of_network(before, data, match.end(), may_stand_alone):
        return None
    if _DRAWING.search(before[-24:]) or _DRAWING.search(data[match.end() : match.end() + 24]):
        return None
    return Span("IP_ADDRESS", at, match.end())


def _likeness_to_version(text: bytes) -> int:
    numbers = [int(octet) for octet in text.split(b".")]
    if tuple(numbers[:2]) in _OBJECT_IDENTIFIERS:
        return _LIKE_VERSIONS
    large = sum(number > _LARGEST_OF_VERSIONS for number in numbers)
    if numbers[0] > _LARGEST_FIRST_OF_VERSIONS or large > 1:
        return 0
    tiny = sum(number <= _TINY for number in numbers)
    return _LIKE_VERSIONS if large == 0 and tiny > 1 else _LIKE_SOME_VERSIONS


def _is_of_network(before: bytes, data: bytes, end: int, may_stand_alone: bool) -> bool:
    """Return whether a possible version is an address: by its punctuation, an adjacent address, or the last word before
    it."""
    if _NETWORK_BEFORE.search(before) or _NETWORK_AFTER.match(data, end):
        return True
    after = data[end : end + _FAR_BYTES]
    if any(_is_surely_address(other) for window in (before, after) for other in _OTHER_IPV4.findall(window)):
        return True
    if _NETWORK_WORD_BEFORE.search(before[-_NEAR_BYTES:]):
        return True
    if not may_stand_alone or _IS_VERSION_AFTER.match(after):
        return False
    if _VERSION_BESIDE_BEFORE.search(before) or _VERSION_BESIDE_AFTER.match(after):
        return False
    return not _ABOUT_VERSIONS.search(before[before.rfind(b"\n") + 1 :][-_NEAR_BYTES:])


def _is_surely_address(text: bytes) -> bool:
    return not _likeness_to_version(text) or text.startswith(b"10.0.")


def _is_public_v4(text: str) -> bool:
    address = ipaddress.IPv4Address(text)
    return address.is_global and not (address.is_multicast or address.is_reserved)


def ipv6(data: bytes, at: int) -> Span | None:
    if data[at : at + 1] == b":" and data[max(at - 1, 0) : at].isalnum():
        at += 1  # addr:2001:...
    elif at and (data[at - 1 : at].isalnum() or data[at - 1] in b"_:.-"):
        return None
    match = _IPV6.match(data, at)
    if match is None:
        return None
    text = match[0].rstrip(b":") if not match[0].endswith(b"::") else match[0]
    try:
        address = ipaddress.IPv6Address(text.decode())
    except ValueError:
        return None
    if not address.is_global or not _ALLOCATED_IPV6.match(text):
        return None
    end = at + len(text)
    groups = sum(1 for group in text.split(b":") if group)
    if groups < _LEAST_IPV6_GROUPS and data[end : end + 1] != b"/" and not _HEXADECIMAL_LETTER.search(text):
        return None  # sequence[2001::2]
    return Span("IP_ADDRESS", at, end)
