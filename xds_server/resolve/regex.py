r"""Regular expressions: what Envoy's RE2 would refuse, said before Envoy is asked.

An approximation by Python's `re`: what only Python knows (lookaround, backreference, atomic group, possessive quantifier,
conditional) is refused, what only RE2 knows (`\pL`, `\z`, `[[:alpha:]]`, flags in the middle) is put into Python's words
first. Source: RE2 syntax, github.com/google/re2/wiki/Syntax.
"""

import functools
import re
import warnings

from xds_server.bootstrap import REGEX_PROGRAM

LIMIT = 1024  # characters; Gateway API's own limit for a value
REPEAT_LIMIT = 1000  # RE2: the largest {n}
PROGRAM_LIMIT = REGEX_PROGRAM // 3  # what we count is an estimate
ESCAPES = frozenset("afnrtvdDsSwWbBAzxpPQEC")  # letters that mean something after a backslash in RE2
REFUSED = (
    (re.compile(r"\(\?<?[=!]"), "lookaround"),
    (re.compile(r"\(\?>"), "an atomic group"),
    (re.compile(r"\(\?\("), "a conditional group"),
    (re.compile(r"\(\?P?="), "a backreference"),
    (re.compile(r"\(\?P>|\(\?R|\(\?[0-9&]"), "recursion"),
    (re.compile(r"\(\?#"), "a comment"),
    (re.compile(r"(?:[*+?]|\{[0-9,]+\})\+"), "a possessive quantifier"),
)
TOKEN = re.compile(
    r"""(?P<quote>\\Q.*?(?:\\E|$))
    | (?P<unicode>\\[pP](?:\{\^?\w+\}|[A-Za-z])|\\x\{[0-9A-Fa-f]+\})
    | (?P<escape>\\.?)
    | (?P<set>\[\^?\]?(?:\[:\^?\w+:\]|\\.|[^\]\\])*\])
    | (?P<flags>\(\?[imsU]*(?:-[imsU]+)?(?P<end>[:)]))
    | (?P<repeat>\{(?P<least>\d+)(?:,(?P<most>\d*))?\})
    | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
POSIX = re.compile(r"\[:\^?\w+:\]|\\[pP](?:\{\^?\w+\}|[A-Za-z])|\\x\{[0-9A-Fa-f]+\}")


@functools.lru_cache(maxsize=8192)
def complaint(pattern: str) -> str:
    """Why RE2 would refuse this expression, or "" if it would take it."""
    if len(pattern) > LIMIT:
        return f"the regular expression has {len(pattern)} characters; at most {LIMIT} are allowed"
    words: list[str] = []
    skeleton: list[str] = []  # without escapes and sets, so that a literal "(?=" is not taken for lookaround
    for token in TOKEN.finditer(pattern):
        if problem := _token(token, words, skeleton):
            return f"not a regular expression that Envoy (RE2) takes: {problem}"
    for refused, name in REFUSED:
        if refused.search("".join(skeleton)):
            return f"Envoy's regular expressions (RE2) have no {name.removeprefix('a ').removeprefix('an ')}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns of sets that it may read differently one day; RE2 will not
            re.compile("".join(words))
    except (re.error, OverflowError, RecursionError) as error:
        return f"not a regular expression that Envoy (RE2) takes: {error}"
    size = _size(pattern)
    if size > PROGRAM_LIMIT:
        return f"the regular expression is too large for Envoy (about {size} steps of {PROGRAM_LIMIT}); repeat or list less"
    return ""


def _size(pattern: str) -> int:
    """About how many instructions RE2 makes of it: never much less, since Envoy would refuse it then."""
    open_groups = [0]  # what the groups that are open at this point have so far
    last = 0  # the size of what a repetition would repeat
    for token in TOKEN.finditer(pattern):
        text = token.group()
        if token.group("repeat"):
            times = max(int(token.group("least")), int(token.group("most") or 0), 1)
            open_groups[-1] += last * (times - 1)
            last *= times
        elif text == "(" or token.group("end") == ":":
            open_groups.append(0)
        elif text == ")" and len(open_groups) > 1:
            last = open_groups.pop() + 2
            open_groups[-1] += last
        else:
            last = {"unicode": 8, "set": 8 if "\\p" in text or not text.isascii() else 3, "quote": len(text)}.get(
                token.lastgroup or "", 2
            )
            open_groups[-1] += last
    return sum(open_groups)


def _token(token: re.Match[str], words: list[str], skeleton: list[str]) -> str:
    """Add one token in Python's words; what is wrong with it, or ""."""
    text = token.group()
    match token.lastgroup:
        case "quote":
            words.append(re.escape(text[2:].removesuffix("\\E")))
            return ""
        case "unicode":
            words.append(r"\w")
            return ""
        case "escape":
            words.append("\\Z" if text == "\\z" else text)
            skeleton.append("_")
            return _escape(text)
        case "set":
            words.append(POSIX.sub("a", text))
            skeleton.append("_")
            return ""
    if token.group("flags"):
        words.append("(?:" if token.group("end") == ":" else "(?:)")
        return ""
    if token.group("repeat"):
        largest = max(int(token.group("least")), int(token.group("most") or 0))
        if largest > REPEAT_LIMIT:
            return f"a repetition of {largest}; at most {REPEAT_LIMIT} is allowed"
    words.append(text)
    skeleton.append(text)
    return ""


def _escape(text: str) -> str:
    letter = text[1:]
    if (letter.isdigit() and letter != "0") or letter == "k":
        return "a backreference"
    if letter.isalpha() and letter.isascii() and letter not in ESCAPES:
        return f"the escape {text}"
    return ""
