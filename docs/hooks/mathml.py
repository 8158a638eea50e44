"""Formulas as docstrings write them, p ← p − lr · m/(1 − beta1^t), typeset as MathML, which browsers draw themselves.

One notation serves the terminal, the Markdown and the site. `formula` reads

    sums      a + b − c, ±a          products   a · b, a × b        quotients  a/b, of the two factors beside it
    powers    a², a^t, a^(k + 1)     roots      √a, √(a + b)        names      beta1, N_t, weight_decay, p̂
    relations a ← b, a = b, ≤ ≥ < > ≠ ≈ ∈, and calls f(a, b), brackets (a), [a, b], |a|

and raises ValueError for everything else. `block` typesets lines, of which each may have a note after two spaces.
"""

from __future__ import annotations

import html
import re

SYMBOLS = {"beta": "β", "alpha": "α", "eps": "ε", "epsilon": "ε"}
"""Names that the field writes with a letter."""

RELATIONS = frozenset("←=≤≥<>≠≈∈→")
SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789", strict=True))
TOKEN = re.compile(
    r"\s*(?:(?P<number>[0-9][0-9,]*(?:\.[0-9]+)?(?:e[-−]?[0-9]+)?)"
    r"|(?P<name>(?:[^\W\d_⁰¹²³⁴-⁹]\u0302?|∞)(?:[^\W⁰¹²³⁴-⁹]|∞)*)|(?P<sign>.))"
)
NAMED = re.compile(r"(?P<base>beta|alpha|eps|[^\W\d_]\u0302?)_?(?P<index>\d+|(?<=_)[\w∞]+)")


def formula(text: str) -> str:
    """The <math> of a formula.

    Raises:
        ValueError: If it is none.

    Example:
        >>> formula("√x")
        '<math><msqrt><mi>x</mi></msqrt></math>'
    """
    tokens = [(m.lastgroup, m.group(m.lastgroup)) for m in TOKEN.finditer(text.strip()) if m.lastgroup]
    parsed, rest = _relation([(kind, token) for kind, token in tokens if token.strip()])
    if rest:
        raise ValueError(f"{text!r} is no formula from {rest[0][1]!r} on")
    return f"<math>{parsed}</math>"


def block(text: str) -> str:
    """Lines of formulas, with their notes beside them; a line that is none stays text.

    Raises:
        ValueError: If fewer than half of the lines are formulas that say what is what.
    """
    cells, found = [], 0
    for line in filter(str.strip, text.splitlines()):
        left, _, note = line.strip().partition("  ")
        left = _or_text(left)
        found += any(f"<mo>{html.escape(sign)}</mo>" in left for sign in RELATIONS)
        cells += [left, _or_text(note.strip())]
    if found * 4 < len(cells) or not found:
        raise ValueError("no formulas")
    return f'<div class="formulas">{"".join(f"<div>{cell}</div>" for cell in cells)}</div>'


def _or_text(text: str) -> str:
    """A formula, one that goes on (`= a`), one with words behind a comma, or else the text."""
    lead = "=" if text.startswith("= ") else ""
    words, comma, condition = text.removeprefix("= ").partition(", ")
    try:
        made = formula(words)
    except (ValueError, IndexError):
        return re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(text, quote=False))
    if words.isalpha() and len(words) > 1:  # a note of one word
        return text
    made = made.replace("<math>", f"<math><mo>{lead}</mo>") if lead else made
    return made + (f", {_or_text(condition)}" if comma else "")


Tokens = list[tuple[str | None, str]]


def _relation(tokens: Tokens) -> tuple[str, Tokens]:
    made, tokens = _sum(tokens)
    while tokens and tokens[0][1] in RELATIONS:
        sign = html.escape(tokens[0][1])
        right, tokens = _sum(tokens[1:])
        made += f"<mo>{sign}</mo>{right}"
    return made, tokens


def _sum(tokens: Tokens) -> tuple[str, Tokens]:
    made = ""
    if tokens[0][1] in "−-±":
        made, tokens = f"<mo>{tokens[0][1]}</mo>", tokens[1:]
    term, tokens = _product(tokens)
    made += term
    while tokens and tokens[0][1] in "+−-±":
        sign = tokens[0][1].replace("-", "−")
        term, tokens = _product(tokens[1:])
        made += f"<mo>{sign}</mo>{term}"
    return made, tokens


def _product(tokens: Tokens) -> tuple[str, Tokens]:
    made, (factor, tokens) = "", _power(tokens)
    while tokens and (tokens[0][1] in "·×/" or (factor.endswith(")</mo></mrow>") and _begins(tokens[0]))):
        sign = tokens[0][1] if tokens[0][1] in "·×/" else "\u2062"  # invisible times
        right, tokens = _power(tokens if sign == "\u2062" else tokens[1:])
        if sign == "/":
            factor = f"<mfrac><mrow>{_bare(factor)}</mrow><mrow>{_bare(right)}</mrow></mfrac>"
        else:
            made, factor = f"{made}{factor}<mo>{sign}</mo>", right
    return made + factor, tokens


def _begins(token: tuple[str | None, str]) -> bool:
    """Whether a token after a bracket is another factor: (a)(b), (a)b."""
    return token[0] == "name" or token[1] == "("


def _power(tokens: Tokens) -> tuple[str, Tokens]:
    base, tokens = _atom(tokens)
    if tokens and tokens[0][1] == "^":
        exponent, tokens = _atom(tokens[1:])
        return f"<msup><mrow>{base}</mrow><mrow>{_bare(exponent)}</mrow></msup>", tokens
    if tokens and tokens[0][1] in SUPERSCRIPTS:
        return f"<msup><mrow>{base}</mrow><mn>{SUPERSCRIPTS[tokens[0][1]]}</mn></msup>", tokens[1:]
    return base, tokens


def _atom(tokens: Tokens) -> tuple[str, Tokens]:
    kind, token = tokens[0]
    if kind == "number":
        return f"<mn>{token}</mn>", tokens[1:]
    if token == "√":
        inside, tokens = _atom(tokens[1:])
        return f"<msqrt>{_bare(inside)}</msqrt>", tokens
    if token in "([|":
        return _bracket(tokens)
    if kind != "name":
        raise ValueError(f"{token!r} begins no formula")
    made, tokens = _name(token), tokens[1:]
    if tokens and tokens[0][1] == "(":  # a call
        inside, tokens = _bracket(tokens)
        made += inside
    return made, tokens


def _bracket(tokens: Tokens) -> tuple[str, Tokens]:
    opening = tokens[0][1]
    closing = {"(": ")", "[": "]", "|": "|"}[opening]
    made, tokens = _relation(tokens[1:])
    while tokens[0][1] == ",":
        more, tokens = _relation(tokens[1:])
        made += f"<mo>,</mo>{more}"
    if tokens[0][1] != closing:
        raise ValueError(f"{closing!r} is missing before {tokens[0][1]!r}")
    return f"<mrow><mo>{opening}</mo>{made}<mo>{closing}</mo></mrow>", tokens[1:]


def _bare(made: str) -> str:
    """A bracket without its brackets: a fraction, a root or an exponent brackets by itself."""
    found = re.fullmatch(r"<mrow><mo>[(\[]</mo>(.*)<mo>[)\]]</mo></mrow>", made)
    depth = 0
    for tag in re.findall("</?mrow>", found[1] if found else ""):
        depth += -1 if "/" in tag else 1
        if depth < 0:  # the first bracket ends before the last one begins
            return made
    return found[1] if found else made


def _name(token: str) -> str:
    found = NAMED.fullmatch(token)
    if found:
        base, index = found["base"], found["index"]
        kind = "mn" if index.isdigit() else "mi"
        return f"<msub><mi>{SYMBOLS.get(base, base)}</mi><{kind}>{index}</{kind}></msub>"
    return f"<mi>{SYMBOLS.get(token, token)}</mi>"
