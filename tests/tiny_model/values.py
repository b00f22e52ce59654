"""Values of preferences: ordinary ones, odd combinations of plain words, and invented words.

Copying what the user said must be the only way to a low loss, so most values of training are ones that no table
could hold. Evaluation draws from its own words, its own syllables and the values that were held out.
"""

from __future__ import annotations

from random import Random

from .lexicon import Attribute, Lexicon

ONSETS = tuple("b bl br ch cl d dr f fl g gl gr h j k kl l m n p pl pr qu r s sh sk sl st t th tr v w z".split())
VOWELS = tuple("a e i o u ai ee oo ou ia".split())
CODAS = ("", "", "", "n", "r", "l", "s", "m", "t", "x", "nd", "rk", "ck", "sh")
HELD_ENDINGS = ("op", "ume", "axi", "ova", "ente")


def invented_word(rng: Random, held: bool = False) -> str:
    """A pronounceable word of one to three syllables; held-out ones carry endings that training never uses."""
    syllables = [rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(rng.choice((1, 2, 2, 3)))]
    word = "".join(syllables)
    if held:
        return word + rng.choice(HELD_ENDINGS)
    return word + "a" if word.endswith(HELD_ENDINGS) else word


def sample_value(lexicon: Lexicon, attribute: Attribute, rng: Random, held: bool = False) -> str:
    """One value, in the casing in which it is stated and should be repeated."""
    draw = rng.random()
    own = (attribute.held if held else attribute.train)["values"]
    words = lexicon.held_words if held else lexicon.words
    if draw < 0.32:
        value = rng.choice(own)
    elif draw < 0.44:
        value = f"{rng.choice(words)} {rng.choice(own)}"
    elif draw < 0.50:
        other = rng.choice(lexicon.attributes)
        value = rng.choice((other.held if held else other.train)["values"])
    elif draw < 0.84:
        value = " ".join(rng.choice(words) for _ in range(rng.choice((1, 1, 2, 2, 2, 3, 3, 4, 5, 6))))
    elif draw < 0.93:
        value = " ".join(invented_word(rng, held) for _ in range(rng.choice((1, 1, 1, 2, 3))))
    else:
        value = f"{rng.choice(words)} {invented_word(rng, held)}"
    return _recase(value, rng)


def piece_string(pieces: tuple[str, ...], rng: Random) -> str:
    """One to five random pieces of the vocabulary, glued as they come.

    Words that only evaluation uses have pieces too; here each piece is met, so that it can be copied, while no such
    word is ever met as a value by itself.
    """
    count = rng.choice((1, 2, 2, 3, 3, 4, 5))
    return " ".join("".join(rng.choice(pieces) for _ in range(count)).split()) or piece_string(pieces, rng)


def _recase(value: str, rng: Random) -> str:
    draw = rng.random()
    if draw < 0.12:
        return value[0].upper() + value[1:]
    if draw < 0.18:
        return " ".join(w[0].upper() + w[1:] for w in value.split())
    return value
