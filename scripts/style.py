#!/usr/bin/env python3
"""Checks the width of lines and the words of the tracked files.

    scripts/style.py                  every tracked file
    scripts/style.py src README.md    only the files below these paths

Prints `file:line: what is wrong`, and exits with 1 if anything is wrong. Code, comments and
Markdown prose end at 100 columns. URLs may be longer, and in Markdown also the targets of links,
tables and code blocks. WORDS is the only list of words.
"""

import re
import subprocess
import sys
from pathlib import Path

WIDTH = 100

# Words that must not occur, and what to write instead. A space stands for any gap: the start of
# the next comment line, or the underscore of an identifier.
WORDS = {
    "whoever": "name the actor: the caller, the reader, an operator",
    "nobody": "name the actor that does not: no caller, no reader",
    "somebody": "name the actor",
    "everybody": "name the actors: every caller, all users",
    "anybody": "name the actor: any user",
    "those who": "name the actors",
    "strangers?": "an unauthenticated client, an unknown key",
    "anew": "again",
    "for ever": "forever, without end",
    "beside": "next to",
    "in vain": "without result",
    "to be had": "available",
    "upon": "on",
    "be it": "whether",
    "none but": "only",
    r"is no \w+ but": "say what is",
    "must have it": "name what is needed",
    "goes by": "uses, depends on",
    "comes by": "receives, is evicted",
    "hears": "receives, is notified",
}
# Further words, for the files whose paths start so.
WORDS_BELOW = {"crates/trust-auth": {"walk(s|ed|ing)?": "scan"}}

CHECKED = {"", ".conf", ".md", ".py", ".rs", ".sh", ".sql", ".toml", ".yaml", ".yml"}
# Databases keep the checksum of a SQLite migration, and the text of PostgreSQL's functions. This
# file has the words themselves.
LEFT_OUT = ("docs/generated/", "fuzz/seeds/", "crates/trust-auth/migrations/sqlite/",
            "crates/trust-auth/migrations/postgres/0003_notify.sql",
            "crates/trust-auth/migrations/postgres/0006_notify_keys.sql", "scripts/style.py")
LINK = re.compile(r"\]\([^)]*\)|\]: \S+|https?://\S+|type\.googleapis\.com/\S+")
# In code, the link of a doc comment can be broken, and so can a text.
URL = re.compile(r"https?://\S+|type\.googleapis\.com/\S+")
GAP = r"(?:[\s_]|\n\s*(?://[/!]?|#|--)\s)+"


def long_lines(path: str, text: str) -> list[tuple[int, str]]:
    found, in_block = [], False
    for number, line in enumerate(text.splitlines(), 1):
        if path.endswith(".md"):
            fence = line.lstrip().startswith("```")
            in_block ^= fence
            if fence or in_block or line.lstrip().startswith("|"):
                continue
        exempt = LINK if path.endswith(".md") else URL
        if (width := len(exempt.sub("", line))) > WIDTH:
            found.append((number, f"{width} columns, at most {WIDTH}"))
    return found


def bad_words(path: str, text: str) -> list[tuple[int, str]]:
    words = dict(WORDS)
    for start, more in WORDS_BELOW.items():
        words |= more if path.startswith(start) else {}
    # The path is line 0.
    text, found = f"{path}\n{text}", []
    for word, instead in words.items():
        pattern = rf"(?<![^\W_]){word.replace(' ', GAP)}(?![^\W_])"
        for match in re.finditer(pattern, text, re.IGNORECASE):
            line = text.count("\n", 0, match.start())
            found.append((line, f"{' '.join(match[0].split())!r}: {instead}"))
    return found


def main() -> None:
    listed = subprocess.run(["git", "ls-files", "-z", "--", *sys.argv[1:]],
                            check=True, capture_output=True, text=True)
    count = 0
    for path in filter(None, listed.stdout.split("\0")):
        file = Path(path)
        if path.startswith(LEFT_OUT) or "LICENSE" in path or not file.is_file():
            continue
        if file.suffix in CHECKED:
            text = file.read_text()
            for line, what in sorted(long_lines(path, text) + bad_words(path, text)):
                print(f"{path}:{line}: {what}")
                count += 1
    sys.exit(f"style: {count} places to mend" if count else 0)


if __name__ == "__main__":
    main()
