"""The stream of training rows: whole conversations and neutral text, mixed as a stage of the recipe says.

`Corpus(mix, seed)` is an endless, seeded iterator. A row is one conversation or one text and never shares its
context with another, so that "I don't know" stays the right answer when nothing was stated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random

from .dialogues import ACKS, PEOPLE, RELATIONS, REMIND, UPDATE, Known, Speaker, Turn
from .lexicon import Lexicon, load_lexicon

KINDS = ("direct", "paraphrase", "implicit", "product")


@dataclass(frozen=True)
class Row:
    """One training row: the turns of a conversation, or one neutral text."""

    turns: tuple[Turn, ...] = ()
    text: str = ""


@dataclass(frozen=True)
class Mix:
    """What a stage is made of: weights of the kinds of rows, of questions, and how much is in between."""

    rows: dict[str, float]
    kinds: dict[str, float] = field(
        default_factory=lambda: {"direct": 4, "paraphrase": 2.5, "implicit": 3, "product": 1}
    )
    stated: tuple[int, ...] = (1, 1, 2, 2, 3, 4)
    between: tuple[int, ...] = (0, 0, 0, 1, 2)
    questions: tuple[int, ...] = (1, 2, 3, 4)
    pieces: float = 0.0  # share of values that are random pieces of the vocabulary
    wide: bool = False  # whether the additional questions are used
    traps: float = 0.0  # share of questions whose right answer is not the value that was stated


class Corpus:
    """An endless, reproducible stream of rows.

    Args:
        mix: the stage's proportions.
        seed: equal seeds give equal streams.
        lexicon: lists to draw from; those beside this file by default.
        pieces: the vocabulary's pieces, for `mix.pieces`.
    """

    def __init__(self, mix: Mix, seed: int, lexicon: Lexicon | None = None, pieces: tuple[str, ...] = ()) -> None:
        self.mix, self.rng = mix, Random(seed)
        self.speaker = Speaker(lexicon or load_lexicon(), self.rng)
        self.speaker.wide = mix.wide
        if pieces and mix.pieces:
            self.speaker.pieces, self.speaker.piece_share = pieces, mix.pieces
        self.builders: dict[str, Callable[[], Row]] = {
            "recall": self.recall,
            "unknown": self.unknown,
            "long": self.long,
            "talk": self.talk,
            "people": self.people,
            "override": self.override,
            "repeat": self.repeat,
            "prose": self.prose,
        }

    def __iter__(self) -> Iterator[Row]:
        names, weights = zip(*self.mix.rows.items())
        while True:
            yield self.builders[self.rng.choices(names, weights)[0]]()

    def _kind(self) -> str:
        return self.rng.choices(list(self.mix.kinds), list(self.mix.kinds.values()))[0]

    def _distractors(self, count: int) -> list[Turn]:
        return [turn for _ in range(count) for turn in self.speaker.distractor()]

    def _stated(self, known: list[Known]) -> tuple[list[Turn], str]:
        """Turns that state `known`, and a text that must stand right before the next question (or "")."""
        speaker, rng = self.speaker, self.rng
        style = rng.random()
        sentences = [speaker.state(k) for k in known]
        if style < 0.22:
            return [("system", rng.choice(REMIND).format(s=" ".join(sentences)))], ""
        if style < 0.44:
            return [], rng.choice(REMIND).format(s=" ".join(sentences))
        turns: list[Turn] = []
        if style < 0.60:
            reply = rng.choice(ACKS) if len(known) > 1 else speaker.acknowledge(known[0])
            return [("user", " ".join(sentences)), ("assistant", reply)], ""
        for k, sentence in zip(known, sentences):
            turns += [("user", sentence), ("assistant", speaker.acknowledge(k))]
            turns += self._distractors(rng.choice(self.mix.between))
        return turns, ""

    def _questions(self, known: list[Known], count: int) -> list[Turn]:
        """`count` questions, most about what is known, the others about what is not."""
        speaker, rng, turns = self.speaker, self.rng, []
        mine = [k for k in known if k.person is None]
        for _ in range(count):
            if self.mix.traps and mine and rng.random() < self.mix.traps:
                turns += self._trap(rng.choice(mine), known)
                continue
            draw = rng.random()
            if draw < 0.70 and mine:
                k = rng.choice(mine)
                turns += speaker.ask(k.attribute, k, self._kind())
            elif draw < 0.86 or not mine:
                for attribute in speaker.far_from([k.attribute for k in mine], 1):
                    turns += speaker.ask(attribute, None, self._kind())
            elif draw < 0.90:
                turns += speaker.ask_negated(rng.choice(mine).attribute)
            elif draw < 0.93:
                turns += speaker.ask_assistant(rng.choice(mine).attribute)
            else:
                turns += speaker.distractor()
        return turns

    def _trap(self, mine: Known, known: list[Known]) -> list[Turn]:
        """A question that names the same attribute but must not get the user's value."""
        rng, draw = self.rng, self.rng.random()
        if draw < 0.55:
            taken = {name for k in known if k.person for name in k.person}
            person = tuple(rng.choice([n for n in names if n not in taken]) for names in (RELATIONS, PEOPLE))
            return self.speaker.ask_theirs(mine.attribute, (person[0], person[1]), None)
        if draw < 0.85:
            return self.speaker.ask_negated(mine.attribute)
        return self.speaker.ask_assistant(mine.attribute)

    def _row(self, opening: list[Turn], prefix: str, questions: list[Turn]) -> Row:
        if prefix and questions:
            questions = [("user", f"{prefix} {questions[0][1]}"), *questions[1:]]
        return Row((*opening, *questions))

    def recall(self) -> Row:
        """Some preferences stated, some questions asked."""
        rng = self.rng
        known = [self.speaker.learn(a) for a in self.speaker.far_from([], rng.choice(self.mix.stated))]
        opening, prefix = self._stated(known)
        if not prefix:
            opening += self._distractors(rng.choice(self.mix.between))
        return self._row(opening, prefix, self._questions(known, rng.choice(self.mix.questions)))

    def long(self) -> Row:
        """Recall over six to eleven unrelated turns."""
        known = [self.speaker.learn(a) for a in self.speaker.far_from([], self.rng.choice((1, 1, 2, 3)))]
        opening, prefix = self._stated(known)
        if prefix:
            opening = [("user", prefix), ("assistant", self.rng.choice(ACKS))]
        opening += self._distractors(self.rng.randint(6, 11))
        return self._row(opening, "", self._questions(known, self.rng.choice((2, 3, 4))))

    def unknown(self) -> Row:
        """Nothing was stated: questions of every kind, between small talk and facts."""
        turns = self._distractors(self.rng.choice((0, 0, 0, 1, 2)))
        for attribute in self.speaker.far_from([], self.rng.choice(self.mix.questions)):
            draw = self.rng.random()
            if draw < 0.8:
                turns += self.speaker.ask(attribute, None, self._kind())
            elif draw < 0.9:
                turns += self.speaker.ask_negated(attribute)
            else:
                turns += self.speaker.ask_assistant(attribute)
        return Row(tuple(turns))

    def talk(self) -> Row:
        """Facts, small talk and tasks only."""
        return Row(tuple(self._distractors(self.rng.choice((1, 2, 3, 4, 5)))))

    def people(self) -> Row:
        """Preferences of the user and of others, kept apart."""
        rng, speaker = self.rng, self.speaker
        attributes = speaker.far_from([], rng.choice((1, 2)))
        people = list(zip(rng.sample(RELATIONS, 3), rng.sample(PEOPLE, 3)))
        known = [speaker.learn(a, people[i]) for i, a in enumerate(attributes)]
        if rng.random() < 0.6:
            known.append(speaker.learn(attributes[0]))
        rng.shuffle(known)
        opening, prefix = self._stated(known)
        questions: list[Turn] = []
        for _ in range(rng.choice(self.mix.questions)):
            k, draw = rng.choice(known), rng.random()
            if draw < 0.5:
                mine = next((o for o in known if o.person is None and o.attribute is k.attribute), None)
                if k.person is None or draw < 0.2:
                    questions += speaker.ask(k.attribute, mine, self._kind())
                else:
                    questions += speaker.ask_theirs(k.attribute, k.person, k)
            elif draw < 0.75 and k.person:
                questions += speaker.ask_theirs(k.attribute, k.person, k)
            else:
                questions += speaker.ask_theirs(k.attribute, people[2], None)
        return self._row(opening, prefix, questions)

    def override(self) -> Row:
        """A statement is replaced by a later one; only the latest counts."""
        rng, speaker = self.rng, self.speaker
        known = [speaker.learn(a) for a in speaker.far_from([], rng.choice((1, 2, 3)))]
        turns, prefix = self._stated(known)
        if prefix:
            turns = [("user", prefix), ("assistant", rng.choice(ACKS))]
        if rng.random() < 0.5:
            turns += speaker.ask(known[0].attribute, known[0], self._kind())
        new = speaker.learn(known[0].attribute)
        turns += [("user", rng.choice(UPDATE).format(n=new.name, v=new.value)), ("assistant", speaker.acknowledge(new))]
        turns += self._distractors(rng.choice(self.mix.between))
        turns += speaker.ask(new.attribute, new, self._kind())
        return Row((*turns, *self._questions([new, *known[1:]], rng.choice((0, 1, 2)))))

    def repeat(self) -> Row:
        """A list of words said twice in a row of text: the shortest way to learn copying."""
        words = [self.speaker._word() for _ in range(self.rng.randint(4, 14))]
        line = " ".join(words)
        return Row(text=". ".join([line] * self.rng.choice((2, 2, 3))) + ".")

    def prose(self) -> Row:
        """Neutral text: paragraphs of our own and plain sentences of random words."""
        rng, lexicon = self.rng, self.speaker.lexicon
        if rng.random() < 0.5:
            return Row(text=" ".join(rng.sample(lexicon.prose, rng.choice((1, 1, 2)))))
        return Row(text=" ".join(self._sentence() for _ in range(rng.randint(2, 6))))

    def _sentence(self) -> str:
        rng, words = self.rng, self.speaker.lexicon.words
        if rng.random() < 0.3:
            return rng.choice(rng.choice(self.speaker.lexicon.prose).rstrip(".").split(". ")) + "."
        frame = rng.choice((
            "The {0} and the {1} are near the {2}.", "There was a {0} under the {1}.", "{p} saw the {0} of the {1}.",
            "In the {0} we found a {1} and some {2}.", "{p} has never heard of {0}.", "The {0} is older than the {1}.",
            "{p} and {q} talked about {0} for an hour.", "Every {0} needs a {1}.", "Nobody knew where the {0} was.",
        ))  # fmt: skip
        return frame.format(*(rng.choice(words).lower() for _ in range(3)), p=rng.choice(PEOPLE), q=rng.choice(PEOPLE))
