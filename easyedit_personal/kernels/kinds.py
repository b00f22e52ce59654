"""What kind of attribute a preference is about, how it is asked for, and what a gate of that kind keeps quiet at.

All of it is known without the user's value, and comes from the texts that ship with the package.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from random import Random

from ..clustering.lexicon import Lexicon, normalise
from ..data.beginnings import Asks, contrasts
from ..data.conversations import short_exchanges
from ..data.material import world_facts
from ..data.phrasings import attributes
from ..types import EditRequest
from .preserve import Material

Exchange = tuple[str, str]
History = tuple[Exchange, ...]
FACTS = 100  # facts of the world among the shared contrasts
BEGUN = 16  # beginnings of somebody else's attribute, as many of nobody's, and of the kind's own at negated questions
NAMED = 4  # questions per kind that all other kinds' gates keep quiet at by name
# And one in so many of the shipped ones: kinds that people ask about in more ways are more of a risk, and questions
# about what to buy are alike, whatever they are about.
ONE_IN: dict[Asks, int] = {"name": 8, "implicit": 8, "product": 3}
SHARES = {"named": 0.15, "indirect": 0.55, "rest": 0.3}  # of the shared contrasts, where there are more than wanted
SMALL_TALK = 0.1  # of the shared contrasts at most: no gate may open there, so none of it is left to the draw
BEHIND_TALK = 0.05  # of the shared contrasts, behind talk about other things
# The plainest forms stand among questions and contrasts alike: in only one of them they would decide by themselves.
PLAIN, PLAIN_OTHER = "What's my {n}?", "What's {who}'s {n}?"
PLAIN_NOT = ("What isn't my {n}?", "What is not my {n}?", "What's surely not my {n}?", "What's never my {n}?")
# Exchanges before questions that are asked once more behind them, short ones; 0 stands for one with the model's own
# answer, which is long. Each is read once for all its questions.
TURNS = (1, 2, 0, 4, 1, 2, 3, 6)
BEHIND: tuple[Asks, ...] = ("name", "implicit", "name", "product")  # what is asked behind each of them
# About a gate's own kind; the plainest forms are many, or they would be answered with the value all the same.
OWN = {
    "negated": 50,
    "plainly negated": 24,
    "somebody else": 30,
    "plainly somebody else": 20,
    "general": 8,
    "small talk": 10,
    "other kinds": 40,
    "stated": 12,
}


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of attribute.

    Attributes:
        name: its everyday name ("hobby"), which answers use.
        group: its group in the lexicon; None where the lexicon does not know it.
        names: all its names, the plain one first.
    """

    name: str
    group: str | None
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Phrase:
    """A question about the user's attribute, and whether it names it, asks without its name, or what to buy.

    Attributes:
        history: the turns before it.
        used: in these turns the attribute's value has been used.
    """

    text: str
    asks: Asks
    history: History = ()
    used: bool = False


@dataclass(frozen=True, slots=True)
class Contrast:
    """A prompt whose answer a gate leaves alone.

    Attributes:
        pool: "own", "used", "named", "indirect" or "rest"; every step of a gate sees some of each.
        group: the kind that it asks for, where it does; that kind's own gate does not keep quiet at it.
    """

    text: str
    pool: str
    group: str | None = None
    history: History = ()


@dataclass(frozen=True, slots=True)
class BegunAnswer:
    """A contrast, and a beginning of its answer after which a value of the kind might be said but does not belong."""

    contrast: Contrast
    begun: str


def kind_of(requests: Sequence[EditRequest]) -> Kind | None:
    """The kind that one preference's requests are about, by their subjects, the asked question's (the last) first.

    None where no request has a subject: there is no name to begin an answer with.
    """
    subjects = [request.subject for request in reversed(requests) if request.subject]
    entries = [entry for subject in subjects if (entry := Lexicon.load().find(subject))]
    if entries:
        return Kind(entries[0].name, entries[0].group, entries[0].names)
    return Kind(subjects[0], None, tuple(dict.fromkeys(map(normalise, subjects)))) if subjects else None


def kind_phrases(kind: Kind, material: Material, named: int, rng: Random) -> list[Phrase]:
    """Questions about a kind: ``named`` of them from templates with its names, and every shipped phrasing."""
    names = [kind.name if i % 2 == 0 else rng.choice(kind.names) for i in range(named)]
    forms = rng.sample(material.own, len(material.own))
    texts = [forms[i % len(forms)].replace("{n}", name) for i, name in enumerate(names)]
    found = [Phrase(text, "name") for text in [PLAIN.replace("{n}", kind.name), *texts]]
    for asks, questions in _shipped().get(kind.group or "", {}).items():
        found += [Phrase(text, asks) for text in questions]
    found += [Phrase(text, "implicit") for text in material.indirect.get(kind.group or "", ())]
    return list(dict.fromkeys(found))


def phrases_behind(phrases: Sequence[Phrase], long_talk: Sequence[Exchange], rng: Random) -> list[Phrase]:
    """Some of a kind's questions once more behind other turns: a gate that never saw a conversation closes in one.

    Args:
        long_talk: exchanges with the model's own answers; may be empty.
    """
    found = []
    for turns in TURNS:
        talk = short_exchanges() if turns or not long_talk else long_talk
        history = tuple(rng.sample(talk, turns or 1))
        for asks in BEHIND:
            phrase = rng.choice([p for p in phrases if p.asks == asks] or phrases)
            found.append(replace(phrase, history=history))
    return found


def sample_values(kind: Kind) -> list[str]:
    """Ordinary values of a kind, to stand where a user's own will: a gate must not care which one it is."""
    own = [value for a in attributes() if a.group == kind.group for value in a.train["values"]]
    return own or [value for a in attributes() for value in a.train["values"][:2]]


def own_contrasts(kind: Kind, material: Material, rng: Random) -> list[Contrast]:
    """Questions near a kind's own: negated, about somebody else or nobody, about another kind, behind another value."""
    near = contrasts()
    templates = {
        "negated": (*material.negated, *near.negated),
        "plainly negated": PLAIN_NOT,
        "somebody else": (*material.somebody_else, *material.yourself, *near.somebody_else),
        "plainly somebody else": (PLAIN_OTHER,),
        "general": near.general,
        "small talk": near.small_talk,  # "How has your week been?" is close to some kinds' vague questions
    }
    found = [c for sort, texts in templates.items() for c in _about(kind, texts, material.people, OWN[sort], rng)]
    found += _of_other_kinds(kind, material, OWN["other kinds"], rng)
    values = sample_values(kind)
    for i in range(OWN["stated"]):
        value = rng.choice(values)
        told, heard = (
            rng.choice(frames).replace("{n}", kind.name).replace("{v}", value)
            for frames in (contrasts().stated, contrasts().heard)
        )
        text = f"What's my {kind.name}?" if i % 2 else rng.choice(material.own).replace("{n}", kind.name)
        found.append(Contrast(text, "own", history=((told, heard),)))
    return found


def begun_answers(kind: Kind, own: Sequence[Contrast], material: Material, rng: Random) -> list[BegunAnswer]:
    """Questions near a kind's own, with beginnings of answers after which the user's value does not belong.

    They name another's attribute, or one that is nobody's; or they are the kind's own, which a gate says that opens
    where it should not: at a negated question, or where the conversation states another value.

    Args:
        own: the kind's own contrasts.
    """
    near, found = contrasts(), []
    questions = (((PLAIN_OTHER, *near.somebody_else), near.begun_else), ((*PLAIN_NOT, *near.negated), near.begun_not))
    for templates, begun in questions:
        for i in range(BEGUN):
            who = rng.choice(material.people)
            text = _named(templates[0] if i % 2 else rng.choice(templates), kind.name, who)
            bare = who.startswith("my ") and i % 4 < 2  # "My uncle Bernard" is "uncle Bernard" or "your uncle Bernard"
            said = _named(begun[i % len(begun)], kind.name, who[3:] if bare else who.replace("my ", "your "))
            found.append(BegunAnswer(Contrast(text, "own"), said))
    negated = [*PLAIN_NOT, *rng.sample(near.negated, min(BEGUN - len(PLAIN_NOT), len(near.negated)))]
    opened = [Contrast(_named(text, kind.name, ""), "own") for text in negated] + [c for c in own if c.history]
    return [*found, *(BegunAnswer(contrast, f"Your {kind.name} is") for contrast in opened)]


def behind_talk(contrasts: Sequence[Contrast], count: int, rng: Random) -> list[Contrast]:
    """Some of the contrasts once more, behind up to three exchanges about other things: there, too, they stay."""
    some, talk = rng.sample(list(contrasts), min(count, len(contrasts))), short_exchanges()
    return [replace(c, history=(*rng.sample(talk, 1 + i % 3), *c.history)) for i, c in enumerate(some)]


def shared_contrasts(material: Material, limit: int, seed: int = 0) -> list[Contrast]:
    """Prompts that every gate keeps quiet at, unless they ask for its kind; at most ``limit``, see ``SHARES``."""
    rng, found = Random(seed), []
    for entry in Lexicon.load().entries:
        names = [entry.name if i < NAMED // 2 else rng.choice(entry.names) for i in range(NAMED)]
        forms = [PLAIN, *(rng.choice(material.own) for _ in names[1:])]
        found += [Contrast(form.replace("{n}", n), "named", entry.group) for form, n in zip(forms, names)]
        shipped = _shipped().get(entry.group, {})
        some = [t for asks, texts in shipped.items() for t in rng.sample(texts, -(-len(texts) // ONE_IN[asks]))]
        asked = [*some, *material.indirect.get(entry.group, ())]
        found += [Contrast(text, "indirect", entry.group) for text in asked]
        kind = Kind(entry.name, entry.group, entry.names)
        for templates in (material.negated, material.somebody_else):
            found += [Contrast(c.text, "rest") for c in _about(kind, templates, material.people, 1, rng)]
    facts = [fact["questions"][0] for fact in rng.sample(world_facts(), min(FACTS, len(world_facts())))]
    neutral = [*material.neutral, *material.open, *contrasts().tasks, *(fact[0].upper() + fact[1:] for fact in facts)]
    found = list(dict.fromkeys([*found, *(Contrast(text, "rest") for text in neutral)]))
    always = [Contrast(text, "rest") for text in contrasts().small_talk[: int(limit * SMALL_TALK)]]
    talked = behind_talk([*found, *always], int(limit * BEHIND_TALK), rng)
    limit -= len(talked)
    if len(found) + len(always) <= limit:
        return [*found, *always, *talked]
    pools = {pool: [contrast for contrast in found if contrast.pool == pool] for pool in SHARES}
    drawn = [
        rng.sample(some, min(len(some), int((limit - len(always)) * SHARES[pool]))) for pool, some in pools.items()
    ]
    return [*(one for some in drawn for one in some), *always, *talked]


def every_kind(rng: Random) -> list[tuple[Kind, Phrase]]:
    """Every kind that the lexicon knows, with a question by name and one of every other sort."""
    found = []
    for entry in Lexicon.load().entries:
        kind = Kind(entry.name, entry.group, entry.names)
        found.append((kind, Phrase(f"What's my {entry.name}?", "name")))
        shipped = _shipped().get(entry.group, {})
        found += [
            (kind, Phrase(rng.choice(texts), asks)) for asks, texts in shipped.items() if texts and asks != "name"
        ]
    return found


def neutral_prompts(material: Material, count: int, seed: int = 0) -> list[str]:
    """Prompts about nobody, the model's answers to which show what ordinary text looks like."""
    texts = [*material.neutral, *material.open, *contrasts().tasks, *contrasts().small_talk]
    return Random(seed).sample(texts, min(count, len(texts)))


def _about(kind: Kind, templates: Sequence[str], people: Sequence[str], count: int, rng: Random) -> list[Contrast]:
    order = rng.sample(list(templates), len(templates))
    found = []
    for i in range(count):
        plain = (i // len(order) + i % len(order)) % 2 == 0  # a template that comes twice comes with both
        name = kind.name if plain else rng.choice(kind.names)
        found.append(Contrast(_named(order[i % len(order)], name, rng.choice(people)), "own"))
    return found


def _of_other_kinds(kind: Kind, material: Material, count: int, rng: Random) -> list[Contrast]:
    """What asks for a kind by name asks for others that are not close to it: the name alone must decide."""
    close = material.related({kind.group}) if kind.group else set()
    others = [entry for entry in Lexicon.load().entries if entry.group not in close]
    found = []
    for _ in range(count if others else 0):
        entry, form = rng.choice(others), rng.choice(material.own)
        found.append(Contrast(form.replace("{n}", rng.choice(entry.names)), "own", entry.group))
    return found


def _named(template: str, name: str, who: str) -> str:
    text = template.replace("{n}", name).replace("{who}", who)
    return text[0].upper() + text[1:]


@cache
def _shipped() -> dict[str, dict[Asks, tuple[str, ...]]]:
    """Every shipped phrasing that edits may train on, by group and by what it asks."""
    parts: tuple[tuple[str, Asks], ...] = (("questions", "name"), ("implicit", "implicit"), ("product", "product"))
    found: dict[str, dict[Asks, tuple[str, ...]]] = {}
    for attribute in attributes():
        group = found.setdefault(attribute.group, {"name": (), "implicit": (), "product": ()})
        for part, asks in parts:
            group[asks] += (*attribute.train[part], *attribute.wide.get(part, ()))
    return found
