"""Web pages of several kinds, as common programs write them; `[[…]]` marks the content, other texts are around it."""

from __future__ import annotations

import re

_MARKED = re.compile(r"\[\[(.*?)\]\]", re.DOTALL)
_TAG = re.compile("<[^>]*>")


AROUND = (
    "Quick links", "Delete cookies", "All rights are reserved", "Report this post", "¶", "genindex", "Previous topic",
    "Table of Contents", "Created using", "Search", "Add to cart", "You may also like", "Hose of 20 metres", "Related",
    "within three days", "Random article", "edit", "last changed", "Imprint", "Questions", "How do I fill", "About me",
    "Continue reading", "Archives", "hosted at home",
)  # fmt: skip
"""Texts around the content, on one of the pages or another."""


def page_of(kind: str) -> str:
    return KINDS[kind].replace("[[", "").replace("]]", "")


def content_of(kind: str) -> list[str]:
    """Return the marked texts, without tags, in order."""
    return [" ".join(_TAG.sub(" ", text).split()) for text in _MARKED.findall(KINDS[kind])]


_MENU = """<div id="page-header" class="headerbar"><a href="/">Example</a>
<ul class="nav linklist"><li><a href="/a">Board index</a></li><li><a href="/b">Quick links</a></li>
<li><a href="/c">Unanswered topics</a></li><li><a href="/d">Members and teams</a></li></ul></div>"""
_FOOT = """<div class="footer"><ul><li><a href="/x">Contact us</a></li><li><a href="/y">Delete cookies</a></li></ul>
<p>Powered by Some Forum Software, all times are in the time zone of the server. All rights are reserved by it.</p>
</div>"""


def _post(author: str, *paragraphs: str) -> str:
    text = "<br><br>".join(f"[[{paragraph}]]" for paragraph in paragraphs)
    return f"""<div class="post has-profile bg2"><dl class="postprofile"><dt><a href="/u">{author}</a></dt>
<dd>Posts: <a href="/p">128</a></dd></dl><div class="postbody"><h3><a href="#p1">Re: Pump makes a noise</a></h3>
<ul class="post-buttons"><li><a href="/q">Quote</a></li><li><a href="/r">Report this post</a></li></ul>
<p class="author">by <a href="/u">{author}</a> » Mon May 04, 2015 9:12 pm</p><div class="content">{text}</div></div>
</div>"""


_LONG = (
    "I took the pump apart on Sunday, cleaned the impeller, and put it back with a new seal, as the manual says.",
    "It runs, but after about ten minutes there is a rattle that gets louder, and the flow drops by half. The bearing "
    "has no play that I can feel, and there is no air in the pipe as far as I can see.",
    "Before I order a new one for 140 euros: has anybody heard this noise, and what was the cause of it in the end?",
) * 3

KINDS = {
    "forum": f"""<html><head><title>Pump</title></head><body id="phpbb" class="nojs section-viewtopic">{_MENU}
<div id="page-body"><h2 class="topic-title"><a href="/t">Pump makes a noise after the winter</a></h2>
<div class="pagination">4 posts • Page <strong>1</strong> of <strong>1</strong></div>
{_post("Ann", "My pump makes a noise after the winter. What can it be?")}
{_post("Ben", "Is it a rattle or a hum?", "If it is a hum, look at the capacitor first; mine was bulging.")}
{_post("Ann", "A rattle, and only when it is warm.")}
{_post("Cho", "Then it is the bearing. Replace it, it costs four euros and takes half an hour.")}
</div>{_FOOT}</body></html>""",
    "forum with one long post": f"""<html><body>{_MENU}<div id="page-body">
{_post("Ann", *_LONG)}{_post("Ben", "That is the bearing, as in every third thread here.")}
{_post("Ann", "You were right, it was the bearing. Thanks a lot, I would have bought a new pump.")}
{_post("Dee", "For others who find this: the part has the number 6201 2RS, and two of them are needed.")}
</div>{_FOOT}</body></html>""",
    "documentation": """<html><body class="wy-body-for-nav"><div class="related" role="navigation"><h3>Navigation</h3>
<ul><li><a href="genindex">index</a></li><li><a href="next">next</a></li></ul></div>
<div class="document"><div class="documentwrapper"><div class="bodywrapper"><div class="body" role="main">
<section id="pump"><h1>[[pump — move water]]<a class="headerlink" href="#pump" title="Link">¶</a></h1>
<p>[[This module moves water. It needs a <a href="driver"><code>driver</code></a> that is open.]]</p>
<p>[[Functions:]]</p>
<dl class="py function"><dt class="sig sig-object py" id="run"><span class="sig-prename">[[pump.]]</span><span
class="sig-name">[[run]]</span>[[(speed, *, timeout=None)]]<a class="headerlink" href="#run">¶</a></dt>
<dd><p>[[Run at a speed until the timeout.]]</p><table class="docutils"><thead><tr><th>[[speed]]</th><th>[[litres]]</th>
</tr></thead><tbody><tr><td>[[slow]]</td><td>[[10]]</td></tr><tr><td>[[fast]]</td><td>[[25]]</td></tr></tbody></table>
<div class="highlight-python"><div class="highlight"><pre><span class="kn">[[import]]</span> [[pump]]

<span class="k">[[with]]</span> [[pump.open() as p:]]
    [[p.run("slow")]]
</pre></div></div></dd></dl>
<h2>[[See also]]</h2><ul class="simple"><li><p>[[<a href="v">valve</a>, for taps]]</p></li>
<li><p>[[<a href="h">hose</a>]]</p></li></ul></section></div></div></div>
<div class="sphinxsidebar" role="navigation"><h3>Table of Contents</h3><ul><li><a href="#run">run</a></li></ul>
<h4>Previous topic</h4><p><a href="p">valve, taps</a></p></div></div>
<div class="footer">Copyright 2026, Some Authors. Created using a generator.</div></body></html>""",
    "product": """<html><body><header class="site-header"><nav><a href="/">Shop</a><a href="/pumps">Pumps</a></nav>
<form action="/search"><input name="q"><button>Search</button></form></header><main>
<div class="breadcrumbs"><a href="/">Home</a> / <a href="/pumps">Pumps</a></div>
<div class="product-main"><h1 class="product-title">[[Garden pump GP 400]]</h1>
<div class="price">[[€ 139.90]]</div><ul class="features"><li>[[400 watts]]</li><li>[[Stainless shaft]]</li></ul>
<button>Add to cart</button></div>
<div class="product-description"><h2>[[Description]]</h2><p>[[A quiet pump for wells of up to eight metres, with a
thermal switch that protects it if it runs dry. The housing is made of cast iron, and the shaft of steel.]]</p>
<p>[[Hoses are not included. Use it with water only, and empty it before the first frost comes.]]</p></div>
<div class="specs"><h2>[[Specifications]]</h2><table><tr><th>[[Power]]</th><td>[[400 W]]</td></tr>
<tr><th>[[Flow]]</th><td>[[3,100 l/h]]</td></tr><tr><th>[[Head]]</th><td>[[36 m]]</td></tr>
<tr><th>[[Voltage]]</th><td>[[230 V, 50 Hz]]</td></tr><tr><th>[[Cable]]</th><td>[[1.5 m]]</td></tr>
<tr><th>[[Weight]]</th><td>[[7.4 kg]]</td></tr><tr><th>[[Protection]]</th><td>[[IPX4]]</td></tr>
<tr><th>[[Connection]]</th><td>[[1 inch, inside thread]]</td></tr><tr><th>[[Dimensions]]</th><td>[[36 x 18 x 20
cm]]</td></tr><tr><th>[[Warranty]]</th><td>[[Two years from the date of purchase]]</td></tr></table></div></main>
<aside class="related-products"><h2>You may also like</h2><ul><li><a href="/1">Garden pump GP 600</a></li>
<li><a href="/2">Hose of 20 metres</a></li></ul></aside>
<footer><p>Prices include tax. We deliver within three days, and take goods back for thirty days.</p></footer>
</body></html>""",
    "list": """<html><body class="mediawiki"><div id="mw-navigation"><div id="p-navigation" role="navigation"><ul>
<li><a href="/m">Main page</a></li><li><a href="/r">Random article</a></li></ul></div></div>
<div id="content" class="mw-body" role="main"><h1 id="firstHeading">[[List of rivers of Examplia]]</h1>
<div id="mw-content-text"><div class="mw-parser-output">
<p>[[This is a list of rivers in Examplia, by the sea that they flow into. Rivers of less than ten kilometres are left
out, as are canals. The lengths are those of the survey of 1994, and differ from older sources by up to a tenth.]]</p>
<h2><span class="mw-headline">[[North Sea]]</span><span class="mw-editsection">[<a href="e">edit</a>]</span></h2>
<ul><li>[[<a href="a">Aller</a>]]<ul><li>[[<a href="b">Little Aller</a>]]</li></ul></li>
<li>[[<a href="c">Berkel</a>]]</li>
<li>[[<a href="d">Black Regen</a>, 40 km]]</li></ul>
<h2><span class="mw-headline">[[Other seas]]</span></h2>
<table class="wikitable"><tr><th>[[River]]</th><th>[[Length]]</th><th>[[Sea]]</th></tr>
<tr><td>[[<a href="x">Onda</a>]]</td><td>[[120 km]]</td><td>[[<a href="s">White Sea</a>]]</td></tr>
<tr><td>[[<a href="y">Parva</a>]]</td><td></td><td>[[<a href="s">White Sea</a>]]</td></tr></table></div></div></div>
<div id="footer" role="contentinfo"><ul><li>This page was last changed on 1 May 2020, at 10:11, by a person.</li></ul>
</div></body></html>""",
    "list of links": """<html><body><nav><a href="/">Start</a> <a href="/help">Help</a></nav><main>
<h1>[[Downloads]]</h1><ul>
<li>[[<a href="1">example-1.0.tar.gz</a>]]</li><li>[[<a href="2">example-1.1.tar.gz</a>]]</li>
<li>[[<a href="3">example-2.0.tar.gz</a>]]</li></ul></main><footer><a href="/i">Imprint</a></footer></body></html>""",
    "questions and answers": f"""<html><body class="question-page"><header class="top-bar"><a href="/">Example</a>
</header>
<div class="left-sidebar"><nav><a href="/q">Questions</a><a href="/t">Tags</a></nav></div><div id="content"><div
id="question-header"><h1><a href="/q/1" class="question-hyperlink">How do I empty a pump?</a></h1></div>
<div id="mainbar"><div class="question"><div class="votecell">5</div><div class="postcell"><div class="s-prose">
<p>[[I have a pump that has to be emptied before the winter, and there is no drain.]]</p>
<pre><code>[[pump --empty]]
[[error: no drain]]</code></pre><p>[[What else can I do?]]</p></div>
<div class="post-taglist"><a href="/t/pump" class="post-tag">pump</a></div></div></div>
<div id="answers"><h2>[[2 Answers]]</h2><div class="answer"><div class="votecell">9</div><div class="answercell">
<div class="s-prose">
<p>[[Turn it upside down. Most pumps of this kind have no drain, and this is what the makers say.]]</p>
<ol><li>[[Unplug it.]]</li><li>[[Take off both hoses.]]</li><li>[[Turn it over, and wait.]]</li></ol></div></div></div>
<div class="answer"><div class="votecell">2</div><div class="answercell"><div class="s-prose"><p>[[Use a vacuum cleaner
that may suck water.]]</p></div></div></div></div></div>
<div id="sidebar"><h4>Related</h4><div class="linked"><a href="/q/2">How do I fill a pump?</a></div></div></div>
{_FOOT}</body></html>""",
    "posts of a blog": """<html><body class="blog"><header><a href="/">A blog</a><nav><ul><li>
<a href="/about">About me</a>
</li></ul></nav></header><div id="main"><article class="post"><h2><a href="/1">[[Emptying the pump]]</a></h2>
<p>[[It is that time of the year again: the frost comes, and the pump has to be emptied before it does.]]</p>
<a class="read-more" href="/1">Continue reading</a></article>
<article class="post"><h2><a href="/2">[[A new hose]]</a></h2><p>[[The old hose had a hole, so that I went to town and
bought another one, which is green and a little too long, but it was on sale.]]</p></article>
<article class="post"><h2><a href="/3">[[Rain]]</a></h2>
<p>[[It has rained for three days, and nobody needs a pump.]]</p>
</article></div><aside id="secondary" class="widget-area"><h3>Archives</h3><ul><li><a href="/2020">May 2020</a></li>
</ul>
</aside><footer>Written by hand, and hosted at home on an old computer under the desk.</footer></body></html>""",
    "posts of WordPress": """<html><body><div id="content">
<div class="post-7 post type-post hentry category-related tag-share author-ann">
<h2><a href="/7">[[A well]]</a></h2>
<p class="entry-meta">Posted on <a href="/7">3 May 2020</a> by <a href="/ann">Ann</a></p>
<p>[[The well is deeper than we thought, and the pump has to be a larger one.]]</p></div>
<div class="post-6 post type-post hentry category-newsletter tag-comments author-ann">
<h2><a href="/6">[[Wet]]</a></h2>
<p>[[The cellar is full of water, which is what happens if it rains for so long.]]</p></div></div></body>
</html>""",
    "a thread of Discourse": """<html><body class="crawler"><header><a href="/">Example</a></header>
<div id="main-outlet">
<div id="topic-title"><h1><a href="/t/1">Which pump for a well of nine metres?</a></h1></div>
<div itemprop="comment" id="post_1" class="topic-body crawler-post"><div class="crawler-post-meta"><span
class="creator"><a href="/u/ann">ann</a></span> <time class="post-time">May 3, 2020, 9:12am</time></div>
<div class="post" itemprop="text"><p>[[Mine stops at eight metres, and nothing that I do helps it.]]</p></div></div>
<div itemprop="comment" id="post_2" class="topic-body crawler-post"><div class="crawler-post-meta"><span
class="creator"><a href="/u/ben">ben</a></span></div><div class="post" itemprop="text"><p>[[A pump that sucks cannot
do it at all. Take one that is put into the water, and pushes.]]</p></div></div>
<div itemprop="comment" id="post_3" class="topic-body crawler-post"><div class="crawler-post-meta"><span
class="creator"><a href="/u/ann">ann</a></span></div><div class="post" itemprop="text"><p>[[Thanks!]]</p></div></div>
</div><footer class="container"><nav><a href="/tos">Terms of Service</a></nav></footer></body></html>""",
    "code": """<html><body><div class="topbar"><a href="/">files</a></div><pre>[[#!/bin/sh]]
[[set -e]]

[[for pump in 1 2 3; do]]
    [[empty "$pump"   # slowly]]
[[done]]
</pre></body></html>""",
    "an old page of tables": """<html><body><table width="100%"><tr><td width="150"><a href="1">News</a><br>
<a href="2">Archive</a><br><a href="3">Links</a></td><td><h2>[[About pumps]]</h2><p>[[Pumps move water from where it is
to where it is wanted. The first ones were made of wood, and worked by hand or by oxen.]]</p><p>[[Later ones were driven
by steam, and the first engines of all drove pumps, in mines that would otherwise have been full of water.]]</p>
</td></tr></table></body></html>""",
}
