"""Names that authors of web pages give to parts that are no main content, and what they say about a part.

Words of classes and ids that are common in themes of content systems; two words are one after the other in a name.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise

FOOTER, COMMENTS, ASIDE, BAR, CAPTION, DETAIL = range(6)
"""Kinds, the most decisive first: on every page of a site; by readers; beside a text; a line of controls; below a
picture; a detail about a text."""

_TAGS = {"footer": FOOTER, "nav": ASIDE, "menu": ASIDE, "aside": ASIDE, "figcaption": CAPTION}
_NAMES = {
    FOOTER: "footer contentinfo cookie cookies consent gdpr",
    COMMENTS: "comment comments commentlist commentform disqus respond",
    ASIDE: "nav navbar navi navigation navlinks menu menus submenu sidebar sidenav side-bar rail masthead banner "
    "complementary noprint modal popup overlay lightbox dialog site-header page-header "
    "related relatedposts recirc recirculation recommend recommended recommendation recommendations popular trending "
    "mostread mostpopular most-read most-popular most-viewed most-shared most-commented readmore readnext read-more "
    "read-next read-also also-read up-next more-news more-stories more-articles more-posts more-from more-on more-like "
    "next-post next-article prev-post previous-post previous-article outbrain taboola teaser teasers promo promos "
    "promotion promoted sponsored paywall newsletter newsletters subscribe subscription subscriptions signup sign-up "
    "optin opt-in mailinglist bio biography author-box author-bio author-info author-card author-profile "
    "author-description about-author",
    BAR: "breadcrumb breadcrumbs crumb crumbs pagination pager paging paginator toolbar widget widgets skip skiplink "
    "skiplinks share shares sharing sharebar sharetools sharethis sharedaddy addthis addtoany social socials "
    "socialmedia ad ads adv advert adverts advertising advertisement advertisements dfp sponsor sponsors tooltip "
    "dropdown search searchbox login screen-reader sr-only visually-hidden print-only",
    CAPTION: "caption captions figcaption",
    DETAIL: "byline bylines author authors writer dateline timestamp pubdate published date dates datetime meta "
    "metadata postmeta postinfo post-info entrymeta tags taglist tagged hashtags categories topics keywords credit "
    "credits copyright attribution kicker eyebrow vcard wordcount reading-time read-time follow disclaimer editsection "
    "permalink button buttons btn",
}
_KINDS = {name: kind for kind, names in _NAMES.items() for name in names.split()}
_WORDS = frozenset(_KINDS)
_FIRST_WORDS = frozenset(name.partition("-")[0] for name in _KINDS if "-" in name)
_NAMED = re.compile(r'(?:^| )(?:class|id|role|itemprop)="([^"]*)"')
_CLASS = re.compile(r'(?:^| )class="([^"]*)"')
_POST = re.compile(r"(?:^| )(?:post|hentry)(?: |$)")
"""Class of a post in WordPress, where its other classes name its author, categories and tags."""
_WORD = re.compile("[a-z]+")
_CAPITAL = re.compile("(?<=[a-z])[A-Z]")


def kind_of(tag: str, attributes: str) -> int | None:
    """Return the kind that the tag of an element or its attributes name; None: neither does."""
    kind = _TAGS.get(tag)
    if kind is None and attributes and tag != "body" and tag != "html":
        return _kind_by_name(attributes)
    return kind


@lru_cache(maxsize=10_000)
def _kind_by_name(attributes: str) -> int | None:
    """Return the most decisive kind that a word, or two words one after the other, of a class or another name."""
    names = " ".join(_NAMED.findall(attributes))
    if _POST.search(names) is not None:
        return None
    words = _WORD.findall(names if names.islower() else _CAPITAL.sub(r" \g<0>", names).lower())
    if not _FIRST_WORDS.isdisjoint(words):
        words += map("-".join, pairwise(words.copy()))
    if _WORDS.isdisjoint(words):
        return None
    return min(_KINDS[word] for word in words if word in _KINDS)


def class_of(attributes: str) -> str:
    """Return the value of the attribute `class`; empty: there is none."""
    found = _CLASS.search(attributes)
    return found[1] if found else ""
