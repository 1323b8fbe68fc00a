"""What tests of annotating share: items, test beds of them, and answers of the endpoint (`openai_server.py`)."""

from openai_server import good, marks

from interventions.testbed import Item, load_testbed, save_testbed

KEY = "sk-test-0123456789abcdef"
CAPITAL = "The capital of this country is"
GOOD = marks(CAPITAL)


def item(number=0, question=CAPITAL, part="known", **changes):
    fields = {"id": f"{part}-{number}", "part": part, "question": question, "image": None, "answers": ("Lima",)}
    return Item(**fields | changes)


def bed(directory, *items):
    save_testbed(items, directory)
    return load_testbed(directory)


def many(n, part="known"):
    """Questions that differ."""
    return [item(i, f"The capital of this country in its year {i} is", part) for i in range(n)]


def first_then(*answers):
    """The n-th request gets the n-th answer, later ones a good one."""
    return lambda request, number: answers[number] if number < len(answers) else good(request)
