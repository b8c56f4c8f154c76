"""What a person reads who is to choose between takes."""

from __future__ import annotations

import re

from musicapi_provider.links.takes import describe_takes


def test_title_stays_text_in_the_question() -> None:
    """Markdown, HTML, templates and line breaks in a title are its letters: no link, no heading."""
    title = "[free](javascript:alert(1)) <b>*x*</b> ![](//evil)\n# {{ 7 * 7 }} `c`"
    take = {"clip_id": "c1", "uri": "file:///music/c1.mp3", "title": title, "duration": 125.4}

    body = describe_takes([take], "file:///music", ["Take 1", "Take 2"])

    line, _, rest = body.partition("\n")
    shown = line.removeprefix("**Take 1**: ").partition(", 2:05 min, [listen](")[0]
    assert re.sub(r"\\(.)", r"\1", shown) == " ".join(title.split())
    assert not re.search(r"(?<!\\)[\[\](){}<>*`#!_]", shown)
    assert rest.strip() == "Only one take of this song succeeded: choose Take 1."
