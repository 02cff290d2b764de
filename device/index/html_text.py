"""HTML mail as plain text, by the standard library's parser: no network, no scripts, no styles."""

from html.parser import HTMLParser

_SILENT = frozenset({"script", "style", "head", "title", "template", "noscript"})
_BREAKS = frozenset({"p", "div", "br", "tr", "table", "ul", "ol", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "pre"})
_QUOTE = "blockquote"


class _Text(HTMLParser):
    """Collects what a reader would see; quoted blocks get the mark of quoted mail."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.lines: list[str] = [""]
        self._silent = 0
        self._quotes = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002 - the parser's signature
        if tag == "body":
            self._silent = 0  # a head that was never closed
        if tag in _SILENT:
            self._silent += 1
        elif tag in _BREAKS or tag in (_QUOTE, "li"):
            self._quotes += tag == _QUOTE
            self._break()
            if tag == "li":
                self.lines[-1] += "- "

    def handle_endtag(self, tag: str) -> None:
        if tag in _SILENT:
            self._silent = max(0, self._silent - 1)
        elif tag in _BREAKS or tag in (_QUOTE, "li"):
            self._quotes = max(0, self._quotes - (tag == _QUOTE))
            self._break()
        elif tag in ("td", "th"):
            self.lines[-1] += " "

    def handle_data(self, data: str) -> None:
        if not self._silent:
            words = " ".join(data.split())
            lead = " " if data[:1].isspace() else ""
            self.lines[-1] += lead + words + (" " if data[-1:].isspace() and words else "")

    def parse_marked_section(self, i: int, report: bool = True) -> int:  # noqa: ARG002 - the parser's signature
        """Skip what office programs write between ``<![`` and ``>``; the parser's own way asserts on unknown names."""
        return self.rawdata.find(">", i) + 1 or -1

    def _break(self) -> None:
        self.lines.append("> " if self._quotes else "")


def html_text(html: str) -> str:
    """Return the readable text of an HTML document, a line for each block, blank lines folded."""
    parser = _Text()
    parser.feed(html)
    parser.close()
    lines = [" ".join(line.split()) for line in parser.lines]
    return "\n".join(line for line in lines if line.strip("> "))
