"""Real tokenizers, all questions of known_1000: the constraint's tokens are those whose bytes spell it.

The code under test reads the tokenizer's character offsets. The oracle here must not: it knows from the vocabulary
which bytes a token stands for, lays these bytes along the prompt's text and takes the tokens that share a byte with
the constraint. Where the constraint is, it knows from how the question was made, not from a search.
"""

import json
import re
import unicodedata
from pathlib import Path

import pytest
import sentencepiece
import tiny
from tokenizers import normalizers
from transformers import AddedToken, CodeGenTokenizer, LlamaTokenizer

from interventions.models.bunny import _image_token
from interventions.prompts.corruption import corrupt
from interventions.prompts.prompt import build_prompt

DATA = Path(__file__).parents[1] / "data"
QUESTIONS = [  # template with {} at the constraint, constraint
    (template, subject)
    for template, subjects in json.loads((DATA / "known_1000" / "questions.json").read_text()).items()
    for subject in subjects
]
SPACES = [" " * n for n in range(31, 1, -1)] + ["\t" * n for n in range(9, 1, -1)]  # Phi-2's tokens 50257 to 50294
UNICODE = (
    "São Tomé", "Łódź", "Đà Nẵng", "Köln", "Åland", "Île-de-France", "Ἀθῆναι", "Москва", "東京", "서울", "日本の首都",
    "القاهرة", "תל אביב", "กรุงเทพ", "नई दिल्ली", "🇵🇪", "👩‍👩‍👧 Café", "🗽", "x̱ʷməθkʷəy̓əm", "Côte d’Ivoire", "O’Brien’s",
    "Guinea‑Bissau", "Baden–Baden", "N'Djamena", "½ Mensch", "ﬁn", "Ⅳ", "San\u00a0José", "naïve—coöperation",
    "«Québec»",
)
FRAMES = ("{} is in", "The capital of {} is", "La capitale de « {} » est", "首都は{}です", "Name the capital of {}")


def llama_pieces():
    return sentencepiece.SentencePieceProcessor(model_file=str(DATA / "tokenizers" / "llama_style.model"))


def llama_tokenizer(form: str):
    """A SentencePiece model as the fast tokenizer of LLaVA-1.5, whose text pieces are 0 to 31999, too.

    form: "new" puts a space in front of the text, "legacy" and "normalizer" in front of what follows `<image>`, too;
    the last one as tokenizer.json files before transformers 4.40 did.
    """
    source = llama_pieces()
    pieces = {source.id_to_piece(i): i for i in range(source.get_piece_size())}
    merges = [(p[:k], p[k:]) for p in pieces for k in range(1, len(p)) if p[:k] in pieces and p[k:] in pieces]
    merges.sort(key=lambda pair: -source.get_score(pieces["".join(pair)]))
    words = LlamaTokenizer(vocab=pieces, merges=merges, legacy=form == "legacy", add_bos_token=True)
    if form == "normalizer":
        words.backend_tokenizer.pre_tokenizer = None
        words.backend_tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    words.add_tokens(AddedToken("<image>", special=True, normalized=False), special_tokens=True)
    words.add_special_tokens({"pad_token": "<pad>"})
    words.image_token = "<image>"
    return words


def byte_alphabet() -> dict[str, int]:
    """The printable character that GPT-2 writes for each byte -> the byte."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in own]
    return {chr(byte): byte for byte in own} | {chr(256 + i): byte for i, byte in enumerate(others)}


ALPHABET = byte_alphabet()


def phi_tokenizer():
    """GPT-2's vocabulary with Phi-2's runs of spaces, and `<image>` as the converter of Bunny adds it."""
    lines = (DATA / "tokenizers" / "gpt2_merges.txt").read_text("utf-8").splitlines()
    merges = [tuple(line.split(" ")) for line in lines[1:]]
    tokens = [*ALPHABET, *map("".join, merges), "<|endoftext|>"]
    words = CodeGenTokenizer(
        vocab={token: i for i, token in enumerate(tokens)}, merges=merges
    )
    words.add_tokens([AddedToken(run, normalized=True) for run in SPACES])
    words.pad_token = words.eos_token
    _image_token(words, 51200)
    return words


@pytest.fixture(scope="module", params=["new", "legacy", "normalizer", "phi"])
def model(request):
    words = phi_tokenizer() if request.param == "phi" else llama_tokenizer(request.param)
    model = tiny.build(*(("phi", "siglip") if request.param == "phi" else ("llama", "clip")), words=words)
    pixels = model.read_image(tiny.picture())
    # Read once: what is in the picture plays no role for tokens.
    model.read_image = lambda image, protocol="paper": pixels
    model.form = request.param
    model.bytes_of = {i: stands_for(model, piece, i) for piece, i in words.get_vocab().items()}
    model.text_of = {i: own.decode(errors="replace") or "<s>" for i, own in model.bytes_of.items()}
    return model


def stands_for(model, piece: str, index: int) -> bytes:
    if index == model.image_token_id:
        return b"<image>"
    if piece in model.tokenizer.all_special_tokens:
        return b""
    if model.form == "phi":
        return piece.encode() if piece in SPACES else bytes(map(ALPHABET.get, piece))
    byte = re.fullmatch("<0x(..)>", piece)
    return bytes.fromhex(byte[1]) if byte else piece.replace("▁", " ").encode()


def spell(model, ids: list[int], text: str) -> list[tuple[int, int]]:
    """The range of bytes of the text that each token stands for."""
    whole, at, ranges = text.encode(), 0, []
    for i, token in enumerate(ids):
        own = model.bytes_of[token]
        if not whole.startswith(own, at):  # SentencePiece's own space, after a special token, is not in the text
            assert model.form != "phi" and own[:1] == b" " and ids[i - 1] in (1, model.image_token_id), (text, i)
            own = own[1:]
            assert whole.startswith(own, at), (text, i)
        ranges.append((at, at + len(own)))
        at += len(own)
    assert at == len(whole), text
    return ranges


def expected(model, ids, template: str, parts: tuple[str, str, str], n_visual: int):
    """The prompt's text, the positions of the tokens of the question's middle part, the bytes of each token."""
    before = template.split("{question}")[0]
    text = template.replace("{question}", "".join(parts))
    begin = len((before.replace("<image>", "<image>" * n_visual) + parts[0]).encode())
    end = begin + len(parts[1].encode())
    ranges = spell(model, ids, text.replace("<image>", "<image>" * n_visual))
    return text, [i for i, (a, b) in enumerate(ranges) if max(a, begin) < min(b, end)], ranges


def variants(template: str, phrase: str):
    """A question as template around the constraint, and the constraint as it is asked for."""
    rest = " ".join(template.replace("{}", " ").split())
    ends = (f"{{}} {rest}", f"{rest} {{}}?", f"{rest} {{}}")
    for frame in dict.fromkeys((template, *ends, f"{rest} (“{{}}”)", f"{{}}'s {rest}", f"{rest}  {{}}  and")):
        yield frame, phrase
    yield template, f" {phrase}"
    yield template, phrase.lower()
    yield f" {template} ", f" {phrase} "


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def check(model, frame: str, phrase: str, given: str, *, image=True, protocol="paper", replacement=None) -> None:
    question = frame.replace("{}", phrase)
    template = model.prompt_template(image=image, protocol=protocol)
    n_visual = model.n_image_tokens if image else 0
    prompt = build_prompt(model, question, "a picture" if image else None, visual_constraint=given, protocol=protocol)
    before, after = nfc(frame).strip().split("{}")
    parts = before, nfc(phrase), after.rstrip("?").rstrip() if protocol == "authors" else after
    ids = prompt.input_ids.tolist()
    text, constraint, ranges = expected(model, ids, template, parts, n_visual)
    assert prompt.text == text
    assert list(prompt.constraint) == constraint, question
    image_id = model.image_token_id
    visual = [i for i, token in enumerate(ids) if token == image_id]
    assert list(prompt.visual) == visual and len(visual) == n_visual
    assert prompt.roles[-1] == "last" and len(set(prompt.roles[constraint[-1] + 1 : -1]) - {"other"}) == 0
    assert prompt.tokens == tuple(model.text_of[token] for token in ids), question  # `spell` has joined their bytes
    if replacement is not None:
        corrupted = corrupt(model, prompt, visual_replacement=replacement)
        others = corrupted.input_ids.tolist()
        parts = before, nfc(replacement), parts[2]
        text2, replaced, ranges2 = expected(model, others, template, parts, n_visual)
        assert corrupted.text == text2
        check_alignment(model, (ids, constraint, ranges), (others, replaced, ranges2), corrupted)


def check_alignment(model, clean, other, corrupted) -> None:
    """The same tokens before the constraint, by distance from the right end after it; inside, last for last."""
    (ids, constraint, ranges), (ids2, replaced, ranges2) = clean, other
    inside, shift = replaced[-1] - constraint[-1], len(ids2) - len(ids)
    assert ids[: corrupted.first_corrupted] == ids2[: corrupted.first_corrupted]
    assert corrupted.first_corrupted in (constraint[0], constraint[0] - 1) and len(corrupted.alignment) == len(ids)
    for i, partner in enumerate(corrupted.alignment):
        if i < constraint[0]:  # a space that the replacement's first token takes in stands for nothing
            lost = i == constraint[0] - 1 and not model.bytes_of[ids[i]].strip() and ids2[i] != ids[i]
            assert partner is None if lost else (partner == i and ids2[i] == ids[i])
        elif i <= constraint[-1]:
            assert partner == (i + inside if i + inside >= replaced[0] else None)
        elif i + shift <= replaced[-1]:  # a mark such as "?" that the replacement's last token takes in: ")?"
            assert partner is None and i <= constraint[-1] + 2
        else:  # the same letters end there, and the token is the same but for such marks
            assert partner == i + shift and ranges2[-1][1] - ranges2[partner][1] == ranges[-1][1] - ranges[i][1]
            assert ids2[partner] == ids[i] or (i <= constraint[-1] + 2 and not model.bytes_of[ids[i]][:1].isspace())


def test_every_question_of_known_1000(model):
    """In every place and way to ask for the constraint; two other forms of LLaVA's tokenizer as the questions stand."""
    for i, (template, subject) in enumerate(QUESTIONS):
        replacement = QUESTIONS[(7 * i + 13) % len(QUESTIONS)][1]
        check(model, template, subject, subject, protocol="authors", replacement=replacement)
        check(model, template, "this place", "this place", replacement=subject)
        if model.form in ("legacy", "normalizer"):
            continue
        check(model, template, subject, subject, image=False)
        check(model, template, subject, subject, image=False, protocol="authors")
        for frame, given in variants(template, subject):
            check(model, frame, subject, given, replacement=replacement if given == subject else None)


@pytest.mark.parametrize(("written", "asked"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_unicode_names(model, written, asked):
    for i, name in enumerate(UNICODE):
        replacement = UNICODE[(7 * i + 13) % len(UNICODE)]
        for template in FRAMES:
            for frame, given in variants(template, name):
                name, given = unicodedata.normalize(written, name), unicodedata.normalize(asked, given)
                check(model, frame, name, given, replacement=replacement)
            check(model, template, name, name, protocol="authors", replacement=replacement)


def test_the_tokens_are_those_of_the_sentencepiece_library():
    """The forms differ only in the space after `<image>`, which the library puts in front of any text."""
    library = llama_pieces()
    questions = [template.replace("{}", subject) for template, subject in QUESTIONS] + [nfc(name) for name in UNICODE]
    for form in ("new", "legacy", "normalizer"):
        words = llama_tokenizer(form)
        for question in questions:
            head, tail = library.encode("USER: "), library.encode(f"\n{question} ASSISTANT:")
            assert library.id_to_piece(tail[0]) == "▁"
            ids = words(f"USER: <image>\n{question} ASSISTANT:")["input_ids"]
            assert ids == [1, *head, 32000, *tail[form == "new" :]], question
            assert words(question)["input_ids"] == [1, *library.encode(question)]


def test_the_tokens_are_those_of_gpt_2():
    words = phi_tokenizer()
    assert words("Hello world")["input_ids"] == [15496, 995] and words(" Hello world")["input_ids"] == [18435, 995]
    assert words("<|endoftext|><image>  ")["input_ids"] == [50256, 50295, 50286]
