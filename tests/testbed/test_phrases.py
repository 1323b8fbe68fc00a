"""What annotators get wrong in marking a phrase, found by rule."""

import pytest

from interventions.testbed.phrases import cut_short, head_noun, needs_image, phrase_problem, trim

SYSTEM = "This operating system was created by"


@pytest.mark.parametrize(
    ("question", "phrase"),
    [
        (SYSTEM, "This operating system"),
        (SYSTEM, "this operating system"),  # case is forgiven
        ("What is this?", "this"),
        ("Why are they here?", "they"),
        ("What is this animal's tail for?", "this animal"),
        ("What does the man in the hat eat?", "the man in the hat"),
        ("Where is this café?", "this cafe\u0301"),
        ("Who governs the U.S.?", "the U.S."),
        ("How old is Washington D.C. today?", "Washington D.C."),
        ("यह जानवर क्या है?", "यह जानवर"),
    ],
)
def test_whole_noun_phrases_pass(question, phrase):
    assert phrase_problem(question, phrase) == ""


@pytest.mark.parametrize(
    ("question", "phrase", "problem"),
    [
        (SYSTEM, "This system", "do not stand in the question one after the other"),
        (SYSTEM, "", "it is empty"),
        (SYSTEM, "This operating", "'system' belongs to it"),
        ("Who owns this football club?", "this football", "'club' belongs to it"),
        ("Who makes these video games?", "these video", "'games' belongs to it"),
        ("What are these trees?", "these trees?", "punctuation"),
        ("What is this animal's tail for?", "this animal's", "possessive"),
        ("What is this animal’s tail for?", "this animal’s", "possessive"),
        ("What is the capital of this country?", "capital of", "a noun is missing"),
        ("What is the capital of this country?", "of this country", "begins with 'of'"),
        ("What sport is this man playing?", "man", "leaves out the word 'this'"),
        ("What is ... this?", "...", "punctuation"),
    ],
)
def test_problems_are_told(question, phrase, problem):
    assert problem in phrase_problem(question, phrase)


def test_words_that_merely_follow_are_no_compound():
    assert cut_short("Where does this big run?", "this big") == "run"  # a modifier takes whatever follows
    assert cut_short("Is this football round?", "this football") == ""
    assert cut_short("Where does this red come from?", "this red come") == ""


def test_trim_tells_what_it_took():
    assert trim(" This person's. ") == ("This person", ["punctuation", "possessive"])
    assert trim("(this dog)") == ("this dog", ["punctuation"])
    assert trim("this dog") == ("this dog", [])
    assert trim("the U.S.") == ("the U.S.", [])
    assert trim("plan B.") == ("plan B.", [])  # nobody can tell
    assert trim("?!") == ("", ["punctuation"])


@pytest.mark.parametrize("text", [
    "What is this animal?", "What is that animal?", "Who made these?", "What is shown here?",
    "Where was the photo taken?",
])
def test_texts_that_point_at_a_picture(text):
    assert needs_image(text)


@pytest.mark.parametrize("text", [
    "Where do zebras live?", "Name a country that borders Peru", "Who won this year?", "Who invented theses?",
])
def test_texts_that_do_not(text):
    assert not needs_image(text)


@pytest.mark.parametrize(("phrase", "noun"), [
    ("this old building", "building"), ("these animals", "animals"), ("this type of food", "food"),
    ("the man in the hat", "man"), ("this", ""), ("This person's", "person"), ("these kinds of dogs", "dogs"),
])
def test_the_noun_that_says_what_it_is_about(phrase, noun):
    assert head_noun(phrase) == noun
