"""Where replacement phrases come from, without any model."""

import re
from dataclasses import replace

import pytest

from interventions.testbed import Item, load_testbed
from interventions.testbed.candidates import SOURCES, Candidates, compared
from interventions.testbed.entity_kinds import Kind, kind_of, kinds, other_forms, text_form, visual_kind


def item(name: str, answer: str, **changes) -> Item:
    fields = {
        "id": f"known/{name}/{answer}", "part": "known", "question": "The capital of this country is", "image": None,
        "visual_constraint": "this country", "answers": (answer,), "entity": name, "relation": "capital",
    }
    return Item(**fields | changes)


def film(year: str, answer: str, director: str = "Ava", **changes) -> Item:
    question = f"Name a movie directed by this director in year {year}"
    return item(director, answer, part="movies", question=question, visual_constraint="this director",
                text_constraint=year, relation="directed", **changes)


PERU, CHILE, INDIA = item("Peru", "Lima"), item("Chile", "Santiago"), item("India", "Delhi")


def phrases(items, one: Item, role: str = "visual", **options) -> dict[str, str]:
    return dict(Candidates(items).of(one, role, **options))


# The table of kinds


def test_a_noun_belongs_to_one_kind_and_every_kind_has_names():
    nouns = [noun for entry in kinds().values() for column in ("one", "many") for noun in entry[column]]
    assert len(nouns) == len(set(nouns))
    assert all(noun == noun.lower() for noun in nouns)
    for name, entry in kinds().items():
        assert set(entry) <= {"one", "many", "names", "plural"}, name
        for column in {"names", "plural"} & set(entry):
            assert 8 <= len(entry[column]) <= 12, name
            assert len({compared(phrase) for phrase in entry[column]}) == len(entry[column]), name


def test_articles_are_those_that_are_spoken():
    names = [phrase for entry in kinds().values() for phrase in entry["names"]]
    assert sum(phrase.startswith("a ") for phrase in names) > 100
    for phrase in names:
        article, _, rest = phrase.partition(" ")
        if article in ("a", "an"):
            vowel = rest[0].lower() in "aeiou" and not re.match("uni|uk|eu", rest.lower())
            assert (article == "an") == (vowel or rest.startswith("hour")), phrase


def test_plurals_have_no_singular_article():
    plurals = [phrase for entry in kinds().values() for phrase in entry.get("plural", ())]
    assert not [phrase for phrase in plurals if phrase.startswith(("a ", "an "))]


@pytest.mark.parametrize(("phrase", "kind"), [
    ("this building", ("building", False)), ("this old building", ("building", False)),
    ("This person", ("person", False)), ("these animals", ("animal", True)), ("these zebras", ("animal", True)),
    ("this video game", ("game", False)), ("this operating system", ("software", False)),
    ("this type of food", ("food", False)), ("the man sitting on the bench", ("man", False)),
    ("these sheep", ("animal", True)), ("this football team", ("team", False)),
    ("this football player", ("athlete", False)), ("this", ("object", False)),
])
def test_the_noun_tells_the_kind(phrase, kind):
    assert kind_of(phrase) == kind


def test_nothing_is_known_of_other_nouns():
    assert kind_of("this flibbertigibbet") is None
    assert kind_of("this time") is None  # the newspaper is a name, not a noun
    assert kind_of("this golden flibbertigibbet") is None  # "this" alone would be a thing
    assert kind_of("the flibbertigibbet he is on") is None  # and "he" a person


@pytest.mark.parametrize(("question", "constraint", "expected"), [
    ("What sport is this?", "this", (Kind("sport", False), "asked")),
    ("What kind of animals are these?", "these", (Kind("animal", True), "asked")),
    ("Which breed of dog is this?", "this", (Kind("dog", False), "asked")),
    ("What time of day is this?", "this", (None, "kind")),
    ("What year was this invented?", "this", (Kind("object", False), "kind")),
    ("What is this used for?", "this", (Kind("object", False), "kind")),
    ("Where is this?", "this", (None, "kind")),
    ("How fast is it?", "it", (None, "kind")),
    ("How old is this flibbertigibbet?", "this flibbertigibbet", (Kind("flibbertigibbet", False), "kind")),
])
def test_a_bare_this_takes_the_kind_that_is_asked_for(question, constraint, expected):
    assert visual_kind(question, constraint) == expected


# Visual constraints


def test_entities_of_the_same_part_relation_and_kind_come_first():
    items = [PERU, CHILE, INDIA, item("Cuba", "Spanish", relation="language"), item("Oslo", "?", part="okvqa"),
             item("Shell", "London", question="The capital of this company is", visual_constraint="this company")]
    found = phrases(items, PERU)
    assert list(found.values()) == sorted(found.values(), key=list(SOURCES).index)
    assert {phrase for phrase, source in found.items() if source == "entity"} == {"Chile", "India"}
    assert "Japan" in found and found["Japan"] == "kind"
    assert not {"Oslo", "Shell"} & set(found)


def test_one_that_shares_an_answer_is_none_from_wherever_it_comes():
    shares = [item("Kenya", "Lima"), item("Japan", "Cuzco", answers=("Cuzco", "the Lima"))]  # names of the kind, too
    found = phrases([PERU, CHILE, *shares], PERU)
    assert "Chile" in found and "Canada" in found and not {"Kenya", "Japan"} & set(found)
    assert {"Kenya", "Japan"} <= set(phrases([PERU, CHILE, *shares], CHILE))
    assert "Kenya" in phrases([PERU, replace(shares[0], relation="twin")], PERU)  # of another relation it says nothing


def test_none_holds_an_answer_the_entity_or_a_constraint():
    zebra = item("the zebra", "donkey", question="What is this animal called?", visual_constraint="this animal",
                 answers=("donkey", "big camels"), annotations=("a sheep",) * 9 + ("a polar",))
    found = phrases([zebra], zebra)
    assert "an elephant" in found
    assert not {"a zebra", "a camel", "a sheep", "a polar bear"} & set(found)
    compare = item("", "twice", question="How does this city compare to Mumbai?", visual_constraint="this city",
                   text_constraint="Mumbai")
    assert "Tokyo" in phrases([compare], compare) and "Mumbai" not in phrases([compare], compare)


def test_articles_plural_and_capital_fit_the_question():
    def of(question, constraint):
        one = item("", "?", question=question, visual_constraint=constraint, relation="")
        return set(phrases([one], one))

    assert {"a zebra", "an elephant"} <= of("What does this animal eat?", "this animal")
    assert {"A zebra", "An elephant"} <= of("This animal eats", "This animal")
    assert {"zebras", "sheep"} <= of("What do these animals eat?", "these animals")
    assert {"the Taj Mahal", "the Eiffel Tower"} <= of("Who built this building?", "this building")
    assert {"The Taj Mahal", "The Eiffel Tower"} <= of("This building is in", "This building")
    none = item("", "?", question="What do these months mean?", visual_constraint="these months")
    assert phrases([none], none) == {}  # no names for the plural
    assert Candidates([none]).why_none(none, "visual").startswith("no candidate fits")


def test_replacements_of_the_bed_serve_constraints_of_the_same_kind():
    def given(constraint, replacement):
        return item("", "x", id=constraint, question=f"x {constraint}", visual_constraint=constraint,
                    visual_replacement=replacement)

    others = [given("this country", "San Marino"), given("This nation", "Tuvalu"), given("these nations", "Palau")]
    asks = item("", "y", question="Who leads this nation?", visual_constraint="this nation")
    found = phrases([*others, asks], asks)
    assert found["San Marino"] == "replacement" and not {"Tuvalu", "Palau"} & set(found)


def test_without_a_kind_the_relation_helps_out():
    odd = item("Zog", "a", question="x this flibbertigibbet", visual_constraint="this flibbertigibbet")
    assert phrases([odd, PERU], odd) == {"Peru": "relation"}
    same = replace(odd, id="2", entity="Zyx", answers=("b",))
    assert phrases([odd, same, PERU], odd) == {"Zyx": "entity"}  # a noun is a kind by itself
    alone = Candidates([odd])
    assert alone.of(odd, "visual") == [] and "unknown kind" in alone.why_none(odd, "visual")


def test_the_draw_depends_on_seed_item_and_phrase_alone():
    pool = [item(f"c{n}", f"a{n}") for n in range(40)]
    drawn = list(phrases(pool, pool[0], most=10))
    assert len(drawn) == 10 and drawn == list(phrases(pool[::-1], pool[0], most=10))
    assert drawn[:4] == list(phrases(pool, pool[0], most=4))
    assert drawn != list(phrases(pool, pool[0], most=10, seed=1)) != list(phrases(pool, pool[1], most=10))
    without = [one for one in pool if one.entity != drawn[0]]
    assert list(phrases(without, pool[0], most=9)) == drawn[1:]


def test_the_key_is_of_all_that_decides():
    key = Candidates([PERU, CHILE]).key
    assert key == Candidates([PERU, CHILE]).key
    assert key != Candidates([PERU, replace(CHILE, answers=("Lima",))]).key != Candidates([PERU]).key


# Text constraints


def test_forms_of_text_constraints():
    assert text_form("2006") == ("year", "{}") and text_form("in 1994") == ("year", "in {}")
    assert text_form("3 legs") == ("number", "{} legs") and text_form("B") == ("letter", "{}")
    assert text_form("French") == Kind("language", False) and text_form("zebras") == Kind("animal", True)
    assert text_form("the population") == text_form("food") == ("", "")  # a noun is no name


def test_a_year_for_a_year_a_number_for_a_number_a_letter_for_a_letter():
    years = other_forms("in 2006")
    assert years[0] == "in 1976" and years[-1] == "in 2024" and "in 2006" not in years
    assert other_forms("7 legs") == [f"{n} legs" for n in (1, 2, 3, 4, 5, 6, 8, 9)]
    assert "C" in other_forms("B") and "B" not in other_forms("B")
    assert other_forms("French") == other_forms("the population") == []


def test_text_constraints_of_the_same_entity_come_first_and_none_with_the_same_answer():
    items = [film("2006", "Up"), film("1994", "Jaws"), film("1987", "Up"), film("1971", "Alien", "Bo"),
             film("2011", "Rio", text_replacement="1933")]
    found = phrases(items, items[0], "text", most=1000)
    assert [phrase for phrase, source in found.items() if source == "entity"] in (["1994", "2011"], ["2011", "1994"])
    assert found["1971"] == "constraint" and found["1999"] == "form" and found["1933"] == "replacement"
    assert "1987" not in found  # it is the year of "Up", too
    assert list(found.values()) == sorted(found.values(), key=["entity", "constraint", "form", "replacement"].index)


def test_a_word_is_replaced_by_one_of_its_kind():
    asks = item("Peru", "Perou", question="What is this country called in French", text_constraint="French")
    found = phrases([asks], asks, "text")
    assert {"Spanish", "Japanese"} <= set(found) and set(found.values()) == {"kind"}
    letter = item("Peru", "Bolivia", question="A land beside this country with B", text_constraint="B")
    assert "A" in phrases([letter], letter, "text")  # the letter, not the article
    other = item("Peru", "x", question="this country in the population", text_constraint="the population")
    assert phrases([other], other, "text") == {} and "unknown kind" in Candidates([other]).why_none(other, "text")


def test_every_item_of_the_embedded_bed_has_candidates():
    items = [replace(one, visual_replacement="", text_replacement=None) for one in load_testbed("embedded")]
    pool = Candidates(items)
    for one in items[::40]:
        assert len(pool.of(one, "visual", most=8)) == 8, one.id
        if one.text_constraint:
            assert len(pool.of(one, "text", most=8)) == 8, one.id
