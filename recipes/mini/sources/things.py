"""Animals, foods and objects: which emoji they are and what WordNet says of them (used by `collect.py`)."""

import json
import re
from collections import Counter
from pathlib import Path

from .facts import LANGUAGES
from .wordnet import Synset, WordNet

# kind -> the WordNet synset that defines it, by its first two words (a second word tells senses apart);
# the nearest one above the thing wins
KINDS = {
    "05": "mammal bird reptile amphibian fish insect arachnid crustacean mollusk",
    "13": "edible_fruit:fruit vegetable baked_goods candy dessert beverage cheese meat dish seafood nut",
    "06": "musical_instrument:instrument vehicle tool clothing footwear headdress weapon furniture "
    "ball jewelry timepiece lamp container scientific_instrument:instrument game_equipment "
    "electronic_equipment cutter magnifier writing_implement photographic_equipment machine toiletry toy",
}
# the sense an emoji means, where it is not WordNet's most frequent one with a listed kind
SENSES = {
    "dolphin": "02071627",  # a small toothed whale, not the dolphinfish
    "peacock": "01808784",  # male peafowl, not the butterfly
    "hedgehog": "01896466",  # Old World mammal, not the porcupine
    "panda": "02513086",  # giant panda
    "lollipop": "07623214",  # candy on a stick, not the ice lolly
}
# emoji whose name means something else in WordNet, or that picture no single thing
EXCLUDED = (
    "guide dog, black cat, cricket, dragon, bug, sauropod, wood, bank, castle, wheel, wind, ice, mate, "
    "notebook, shortcake, dumpling, cut of meat, luggage, balloon, motorized wheelchair, french fries, "
    "videocassette, card index, playground slide, package, clutch bag, two-hump camel, ox, "
    "passenger ship, seat, soft ice cream, bell, beans, articulated lorry"
).split(", ")
NOUN = {"05": "animal", "13": "food", "06": "object"}
GROUPS = {
    "Animals & Nature": "05",
    "Food & Drink": "13",
    "Travel & Places": "06",
    "Activities": "06",
    "Objects": "06",
}


class Emoji:
    """Names of emoji in CLDR and their groups in `unicode-emoji-json`."""

    def __init__(self, npm: Path):
        self.groups = {
            e: v["group"]
            for e, v in json.loads((npm / "unicode-emoji-json/data-by-emoji.json").read_text()).items()
        }
        self.names = {}
        for locale in ("en", *LANGUAGES.values()):
            path = npm / f"cldr-annotations-modern/annotations/{locale}/annotations.json"
            entries = json.loads(path.read_text())["annotations"]["annotations"]
            self.names[locale] = {e: v["tts"][0] for e, v in entries.items() if "tts" in v}

    def things(self) -> list[tuple[str, str, str, bool]]:
        """(name, emoji, WordNet lexfile, exact name?); a face only where there is no whole animal."""
        found = {}
        for emoji, name in self.names["en"].items():
            group = self.groups.get(emoji) or self.groups.get(emoji + "\ufe0f")
            if group in GROUPS:
                exact = not name.endswith(" face")
                short = name.removesuffix(" face").replace("’", "'")
                if exact or short not in found:
                    found[short] = (short, emoji, GROUPS[group], exact)
        return list(found.values())

    def translations(self, emoji: str) -> dict[str, str]:
        return {lang: self.names[loc][emoji] for lang, loc in LANGUAGES.items() if emoji in self.names[loc]}


def kind_of(net: WordNet, name: str, lexfile: str) -> tuple[str, Synset, list[Synset]] | None:
    """(kind, the sense it holds for, the synsets strictly between them) or None."""
    classes = {}
    for entry in KINDS[lexfile].split():
        word, _, label = entry.partition(":")
        senses = net.lookup(word.replace("_", " "), lexfile)
        if senses:
            classes.setdefault(senses[0].offset, label or word.replace("_", " "))
    senses = [net.synsets[SENSES[name]]] if name in SENSES else net.lookup(name, lexfile)
    for sense in senses:
        above = net.ancestors(sense)
        for i, synset in enumerate(above[1:], 1):
            if synset.offset in classes:
                between = [s for s in above[1:i] if any(a.offset == synset.offset for a in net.ancestors(s))]
                return classes[synset.offset], sense, between
    return None


def young(net: WordNet, name: str) -> tuple[list[str], str]:
    """Names of an animal's young: children of WordNet's 'young' whose gloss names the animal."""
    root = next(s for s in net.lookup("young", "05") if "offspring" in s.words)
    own = [net.synsets[SENSES[name]]] if name in SENSES else net.lookup(name, "05")
    terms = {name.lower(), name.lower().split()[-1]} if own else {name.lower()}
    for parent in net.targets(own[0], ("@",)) if own else []:
        terms |= {
            w.lower() for w in parent.words if w in ("cattle", "domestic fowl")
        }  # 'young of domestic cattle'
    under, beside, cited = [], [], ""
    for synset in net.synsets.values():
        if synset.lexfile != "05" or not re.match(
            r"(\([^)]*\) )?(the |a |especially a )*young\b", synset.gloss
        ):
            continue
        if not any(re.search(rf"\b{re.escape(t)}\b", synset.gloss) for t in terms):
            continue
        if re.search(r"\b(female|male|meat|not older|less than|edible|various (fish|herr))", synset.gloss):
            continue
        words = [w.split()[-1] for w in synset.words if not w.startswith("young ")]
        is_young = any(a.offset == root.offset for a in net.ancestors(synset))
        (under if is_young else beside).extend(words)
        cited = cited or net.cite(synset, "gloss")
    answers = [w for w, _ in Counter(under or beside).most_common() if w != name]
    return answers, cited
