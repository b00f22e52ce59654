"""Builders of single conversations: what was stated, what is asked, and what a good assistant answers.

A conversation is a list of (role, text) turns. The rules of the small world: a stated preference is repeated in
the user's own words, the latest statement wins, another person's is theirs only, a negated question never gets the
value, and what was not stated is not known.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from .lexicon import Attribute, Lexicon, close
from .values import invented_word, piece_string, sample_value

Turn = tuple[str, str]

DIRECT = (
    "What is my {n}?", "What is my {n}?", "Do you remember my {n}?", "Can you tell me my {n}?", "Tell me my {n}.",
    "What did I say about my {n}?", "Remind me of my {n}.", "What's my {n}, again?", "I forgot, what is my {n}?",
    "Do you know my {n}?", "And my {n}?", "What would you say is my {n}?", "Please name my {n}.",
    "What was my {n} again?", "What about my {n}?", "What's my current {n}?", "My {n} is what?", "Which is my {n}?",
    "My {n}?", "Do you know what my {n} is?", "What's the name of my {n}?", "Say what my {n} is.",
)  # fmt: skip
HELD_DIRECT = ("What's my {n}?", "Would you tell me what my {n} is?", "Can you remind me what my {n} is?")
# For stages whose mix is wide.
DIRECT_WIDE = (
    "Are you able to tell me my {n}?", "I wonder what my {n} is.", "May I ask what my {n} is?", "What's my {n} called?",
    "Would you repeat my {n}?", "Would you say what my {n} is?", "Let me know my {n}.", "What might my {n} be?",
    "Can you repeat what my {n} is?", "Could you name me my {n}?", "You know my {n}, right?", "Have I told you my {n}?",
    "I would like to hear my {n}.", "What do you know about my {n}?", "Answer in short: what is my {n}?", "So what's my {n}?",
    "Would you remind me of my {n}?", "Help me remember my {n}.", "My {n}, please?", "What have I told you about my {n}?",
)  # fmt: skip
STATE_WIDE = (
    "My {n} has always been {v}", "If anybody asks, my {n} is {v}", "I would say {v} for my {n}", "My {n} would be {v}",
    "I have {v} as my {n}", "{v}, that is my {n}", "I consider {v} to be my {n}", "These days my {n} is {v}",
)  # fmt: skip
STATE = (
    "My {n} is {v}", "My {n} is {v}", "My {n} is {v}", "{v} is my {n}", "As for my {n}, it is {v}",
    "When it comes to my {n}, I say {v}", "I would call {v} my {n}", "You should know that my {n} is {v}",
    "For my {n} I would name {v}", "My {n}: {v}", "Just so you know, my {n} is {v}", "I like {v} as my {n}",
)  # fmt: skip
UPDATE = (
    "Actually, my {n} is now {v}.", "I changed my mind, my {n} is {v}.", "Things changed: my {n} is {v} now.",
    "Correction: my {n} is {v}.", "From now on my {n} is {v}.", "Forget what I said, my {n} is {v}.",
)  # fmt: skip
THEIRS = ("My {r} {p}'s {n} is {v}", "{p}, my {r}, says that the {n} is {v}", "The {n} of my {r} {p} is {v}")
ASK_THEIRS = ("What is {p}'s {n}?", "What is my {r}'s {n}?", "Do you know {p}'s {n}?", "Tell me the {n} of my {r}.",
              "And what is {p}'s {n}?", "What about my {r}'s {n}?")  # fmt: skip
NEGATED = ("What is not my {n}?", "What is definitely not my {n}?", "Tell me something that is not my {n}.",
           "Which {n} do I not have?", "Name something that isn't my {n}.", "What would never be my {n}?")  # fmt: skip
YOURS = ("What is your {n}?", "Do you have a {n}?", "Tell me about your own {n}.", "And what is your {n}?",
         "What would be your {n}, dear assistant?", "What's your own {n}?")  # fmt: skip
REMIND = ("Remember: {s}", "Keep in mind: {s}", "Reminder: {s}", "About me: {s}", "Please remember this. {s}",
          "Note: {s}", "Here is something about me. {s}", "I told you before: {s}", "{s}", "{s}")  # fmt: skip
ACKS = ("Got it.", "Thanks for telling me.", "Good to know.", "I will remember that.", "Noted.", "How nice!", "Okay.")
ECHOES = ("Noted, your {n} is {v}.", "I will remember that your {n} is {v}.", "{v}, got it.", "Okay, {v}.")
ANSWERS = {
    "direct": ("{v}",) * 12 + ("Your {n} is {v}.",) * 5 + ("It is {v}.", "You told me that it is {v}.", "{v}, as you said."),
    "implicit": ("{v}",) * 9 + ("How about {v}?",) * 4 + ("{v}, since that is your {n}.",) * 2
    + ("I would say {v}.", "You could go for {v}.", "{v}, of course.", "Your {n} is {v}, so {v}."),
    "product": ("{v}",) * 6 + ("Something for {v} would be good.",) * 4 + ("Look for things that go with {v}.",) * 2
    + ("Since your {n} is {v}, look for that.", "I suggest something to do with {v}."),
}  # fmt: skip
UNKNOWN = ("I don't know your {n} yet.",) * 6 + ("You have not told me your {n} yet.",) * 2 + (
    "I am not sure, you have not told me your {n}.",)  # fmt: skip
PREFIXES = ("By the way, ", "Hey, ", "Please tell me, ", "Quick question: ", "Now, ", "So, ", "Listen, ", "Well, ",
            "One more thing: ", "Help me, please: ", "Hi! ", "Hello. ")  # fmt: skip
SUFFIXES = (" Any idea?", " Do you remember?", " Tell me.", " Please answer.", " Thanks.")
PEOPLE = ("Anna", "Tom", "Maria", "Ben", "Lucy", "Paul", "Nina", "Oscar", "Ruth", "Leo", "Clara", "Hugo", "Ella", "Sam",
          "Rosa", "Felix", "Ida", "Karl", "Mona", "Ravi")  # fmt: skip
RELATIONS = ("sister", "brother", "friend", "boss", "neighbor", "cousin", "aunt", "uncle", "wife", "husband",
             "daughter", "son", "colleague", "roommate", "mother", "father")  # fmt: skip


@dataclass
class Known:
    """A stated preference: whose, about what, and in which words."""

    attribute: Attribute
    value: str
    name: str
    person: tuple[str, str] | None = None


class Speaker:
    """Draws phrasings for one conversation; `held` switches to those that training never sees."""

    def __init__(self, lexicon: Lexicon, rng: Random, held: bool = False) -> None:
        self.lexicon, self.rng, self.held = lexicon, rng, held
        self.pieces: tuple[str, ...] = ()
        self.piece_share = 0.0
        self.wide = False

    def learn(self, attribute: Attribute, person: tuple[str, str] | None = None) -> Known:
        """Invent a value of `attribute`, about the user or about `person` (relation, name)."""
        if self.pieces and self.rng.random() < self.piece_share:
            value = piece_string(self.pieces, self.rng)
        else:
            value = sample_value(self.lexicon, attribute, self.rng, self.held)
        return Known(attribute, value, self.rng.choice(attribute.names[:1] * 4 + attribute.names), person)

    def state(self, known: Known, named: bool = False) -> str:
        """One sentence that states the preference; `named` asks for one that says the attribute's name."""
        rng, v = self.rng, known.value
        if known.person:
            relation, person = known.person
            text = rng.choice(THEIRS).format(r=relation, p=person, n=known.name, v=v)
        elif named or rng.random() < 0.5:
            text = rng.choice(STATE + STATE_WIDE if self.wide else STATE).format(n=known.name, v=v)
        else:
            article = "an" if v[0].lower() in "aeiou" else "a"
            text = rng.choice(known.attribute.train["statements"]).format(v=v, a=article)
        return text + ("." if rng.random() < 0.93 else "!")

    def acknowledge(self, known: Known) -> str:
        """The assistant's reaction to a statement; about a third of them repeat the value."""
        if known.person is None and self.rng.random() < 0.35:
            return self.rng.choice(ECHOES).format(n=known.name, v=known.value)
        return self.rng.choice(ACKS)

    def question(self, attribute: Attribute, kind: str) -> tuple[str, str]:
        """A question of `kind` about `attribute`, and the everyday name that an answer should use."""
        rng, name = self.rng, attribute.name
        if kind == "direct":
            name = rng.choice(attribute.names[:1] * 4 + attribute.names)
            text = rng.choice(HELD_DIRECT if self.held else DIRECT + DIRECT_WIDE if self.wide else DIRECT).format(
                n=name
            )
        else:
            part = "questions" if kind == "paraphrase" else kind
            items = (attribute.held if self.held else attribute.train)[part]
            text = rng.choice(items + attribute.wide[part] if self.wide else items)
        return (text if self.held else self._vary(text)), name

    def _vary(self, text: str) -> str:
        draw = self.rng.random()
        if draw < 0.15:
            lower = text if text.startswith(("I ", "I'")) else text[0].lower() + text[1:]
            return self.rng.choice(PREFIXES) + lower
        if draw < 0.22:
            return text + self.rng.choice(SUFFIXES)
        if draw < 0.27:
            return text.lower()
        if draw < 0.30:
            return text.rstrip("?.")
        return text

    def answer(self, known: Known | None, kind: str, name: str) -> str:
        """What a good assistant says: the value in the user's words, or that it is not known."""
        if known is None:
            return self.rng.choice(UNKNOWN).format(n=name)
        key = {"paraphrase": "direct"}.get(kind, kind)
        return self.rng.choice(ANSWERS[key]).format(n=name, v=known.value)

    def ask(self, attribute: Attribute, known: Known | None, kind: str) -> list[Turn]:
        """The two turns of a question and its answer."""
        text, name = self.question(attribute, kind)
        return [("user", text), ("assistant", self.answer(known, kind, name))]

    def ask_negated(self, attribute: Attribute) -> list[Turn]:
        """A negated question; the value has no place in the answer, known or not."""
        name = self.rng.choice(attribute.names[:1] * 3 + attribute.names)
        reply = self.rng.choice(("Many things are not your {n}.", "There is a lot that is not your {n}.")).format(
            n=name
        )
        return [("user", self._vary(self.rng.choice(NEGATED).format(n=name))), ("assistant", reply)]

    def ask_assistant(self, attribute: Attribute) -> list[Turn]:
        """A question about the assistant itself, which has no preferences."""
        name = self.rng.choice(attribute.names)
        reply = self.rng.choice(("I am an assistant, I have no {n}.", "I have no {n} of my own.")).format(n=name)
        return [("user", self._vary(self.rng.choice(YOURS).format(n=name))), ("assistant", reply)]

    def ask_theirs(self, attribute: Attribute, person: tuple[str, str], known: Known | None) -> list[Turn]:
        """A question about somebody else's preference, known or not."""
        name = known.name if known else self.rng.choice(attribute.names[:1] * 3 + attribute.names)
        text = self.rng.choice(ASK_THEIRS).format(r=person[0], p=person[1], n=name)
        if known is None:
            reply = self.rng.choice(("I don't know that {n}.", "You have not told me that {n}.")).format(n=name)
        else:
            reply = self.rng.choice(("{v}", "{v}", "It is {v}.")).format(v=known.value)
        return [("user", text), ("assistant", reply)]

    def fact(self) -> list[Turn]:
        """A question about the small world."""
        fact = self.rng.choice(self.lexicon.facts)
        text = self.rng.choice(fact.held if self.held else fact.questions)
        reply = fact.answer if self.rng.random() < 0.85 else f"It is {fact.answer}."
        return [("user", text if self.held else self._vary(text)), ("assistant", reply)]

    def small_talk(self) -> list[Turn]:
        """A line of small talk or everyday advice."""
        pair = self.rng.choice(self.lexicon.held_pairs if self.held else self.lexicon.pairs)
        return [("user", pair[0]), ("assistant", self.rng.choice(pair[1:]))]

    def task(self) -> list[Turn]:
        """A small task: repeat, spell, add, choose, count, or say what a paragraph says."""
        rng = self.rng
        draw = rng.randrange(6)
        if draw == 0:
            text = " ".join(self._word() for _ in range(rng.randint(1, 6)))
            ask = rng.choice(
                ("Repeat after me: {t}", "Say {t}.", "Please repeat: {t}", 'Write "{t}".', "Echo this: {t}")
            )
            return [("user", ask.format(t=text)), ("assistant", text)]
        if draw == 1:
            word = rng.choice(self.lexicon.words).lower()
            return [("user", rng.choice(("Spell {w}.", "How do you spell {w}?")).format(w=word)),
                    ("assistant", " ".join(word))]  # fmt: skip
        if draw == 2:
            a, b = rng.randint(0, 10), rng.randint(0, 10)
            return [("user", rng.choice(("What is {a} plus {b}?", "How much is {a} + {b}?")).format(a=a, b=b)),
                    ("assistant", str(a + b))]  # fmt: skip
        words = [self._word() for _ in range(rng.randint(2, 5))]
        if draw == 3:
            return [("user", f"Which word comes first: {', '.join(words)}?"), ("assistant", words[0])]
        if draw == 4:
            return [("user", f"Which word comes last: {', '.join(words)}?"), ("assistant", words[-1])]
        return [("user", f"Tell me something about {words[0]}."), ("assistant", rng.choice(self.lexicon.prose))]

    def _word(self) -> str:
        if self.pieces and self.rng.random() < self.piece_share:
            return piece_string(self.pieces, self.rng)
        if self.rng.random() < 0.3:
            return invented_word(self.rng, self.held)
        return self.rng.choice(self.lexicon.held_words if self.held else self.lexicon.words)

    def distractor(self) -> list[Turn]:
        """A turn that has nothing to do with the user's preferences."""
        return self.rng.choices((self.fact, self.small_talk, self.task), (4, 4, 2))[0]()

    def far_from(self, attributes: list[Attribute], count: int, strict: bool = True) -> list[Attribute]:
        """Up to `count` attribute types that are not close to `attributes` nor to each other."""
        chosen: list[Attribute] = []
        for candidate in self.rng.sample(self.lexicon.attributes, len(self.lexicon.attributes)):
            near = any(close(candidate, a) if strict else candidate.group == a.group for a in [*attributes, *chosen])
            if not near:
                chosen.append(candidate)
            if len(chosen) == count:
                break
        return chosen
