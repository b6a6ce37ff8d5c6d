"""Chapter 5: the words of a Dockerfile: where they end, what their quotes and escapes mean, what variables become.

    split('A=1 B="x y"')                          ['A=1', 'B="x y"']: at blanks outside of quotes
    expand('"$A"/${B:-none}', {"A": "one"})       'one/none'

The rules are a shell's, as far as Docker follows them: ${x:-word}, ${x:+word} and ${x:?word}, each also without the
colon. Only some instructions are expanded at all; in RUN the shell of the image does it. Source: Docker's Dockerfile
reference, "Environment replacement".
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

BLANK = " \t\v\f\r\n"
SPECIAL = "@*#?-$!"  # a shell's parameters of one character; none of them has a value in a Dockerfile


def split(text: str, escape: str = "\\") -> list[str]:
    """Words with their quotes and escapes still in them; a quote that is not closed lasts to the end."""
    words, word, quote, at = list[str](), "", "", 0
    while at < len(text):
        letter, step = text[at], 1
        if letter == escape and quote != "'":
            step = 2
        elif quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in BLANK:
            words += [word] if word else []
            word, letter, step = "", "", 1
        word += text[at : at + step] if letter else ""
        at += step
    return [*words, word] if word else words


def expand(text: str, variables: Mapping[str, str], escape: str = "\\") -> str:
    """The text with variables replaced, and without quotes and escapes. Raises ValueError for bad syntax."""
    try:
        return _Text(text, variables, escape).until("")
    except RecursionError:
        raise ValueError(f"{text[:40]!r}...: too many ${{x:-${{x:-... in each other") from None


def expand_document(text: str, variables: Mapping[str, str], escape: str = "\\") -> str:
    """The same for a here-document, in which quotes mean nothing, and an escape protects only a $ and itself."""
    try:
        return _Text(text, variables, escape).document()
    except RecursionError:
        raise ValueError("the here-document has too many ${x:-${x:-... in each other") from None


class _Text:
    """A text, and how far it is read."""

    def __init__(self, text: str, variables: Mapping[str, str], escape: str) -> None:
        self.text, self.variables, self.escape, self.at = text, variables, escape, 0

    def peek(self) -> str:
        """The next character, or nothing at the end."""
        return self.text[self.at : self.at + 1]

    def next(self) -> str:
        """The same, and go on."""
        self.at += 1
        return self.text[self.at - 1 : self.at]

    def until(self, stop: str) -> str:
        """Read to the character `stop`, or to the end if it is empty."""
        out = []
        while (letter := self.next()) != stop:
            if not letter:
                raise ValueError(f"{self.text!r}: {stop} is missing")
            if letter == "'":
                out.append(self.single())
            elif letter == '"':
                out.append(self.double())
            elif letter == "$":
                out.append(self.variable())
            else:
                out.append(self.next() if letter == self.escape else letter)
        return "".join(out)

    def document(self) -> str:
        """Read to the end, without quotes."""
        out = []
        while letter := self.next():
            if letter == self.escape and self.peek() in ("$", self.escape):
                letter = self.next()
            elif letter == "$":
                letter = self.variable()
            out.append(letter)
        return "".join(out)

    def single(self) -> str:
        """Nothing has a meaning between single quotes, except their end."""
        end = self.text.find("'", self.at)
        if end < 0:
            raise ValueError(f"{self.text!r}: a single quote is not closed")
        start, self.at = self.at, end + 1
        return self.text[start:end]

    def double(self) -> str:
        """Variables have a meaning between double quotes, and escapes before a quote, a $ and themselves."""
        out = []
        while (letter := self.next()) != '"':
            if not letter:
                raise ValueError(f"{self.text!r}: a double quote is not closed")
            if letter == "$":
                letter = self.variable()
            elif letter == self.escape and self.peek() in ('"', "$", self.escape):
                letter = self.next()
            out.append(letter)
        return "".join(out)

    def variable(self) -> str:
        """What stands for $x, ${x} or ${x:-word}; the $ is read. A lone $ stands for itself."""
        if self.peek() != "{":
            name = self.name()
            return self.variables.get(name, "") if name else "$"
        self.next()
        name, sign = self.name(), self.next()
        if sign == "}" and name:
            return self.variables.get(name, "")
        colon = sign == ":"
        sign = self.next() if colon else sign
        if not name or sign not in ("-", "+", "?"):
            raise ValueError(f"{self.text!r}: cannot substitute ${{{name}{':' * colon}{sign}")
        return self.default(name, sign, colon, self.until("}"))

    def default(self, name: str, sign: str, colon: bool, word: str) -> str:
        """With the colon, an empty value counts as none."""
        value = self.variables.get(name)
        present = value is not None and not (colon and not value)
        if sign == "+":
            return word if present else ""
        if sign == "-":
            return value or "" if present else word
        if not present:
            raise ValueError(f"{name}: {word or 'is not allowed to be ' + ('empty' if colon else 'unset')}")
        return value or ""

    def name(self) -> str:
        """Letters, digits and _; or digits alone, or one special character, as a shell reads them."""
        start = self.at
        if self.peek() and self.peek() in SPECIAL:
            return self.next()
        digits = self.peek().isdecimal()
        while self.peek().isdecimal() if digits else (self.peek().isalnum() or self.peek() == "_"):
            self.at += 1
        return self.text[start : self.at]
