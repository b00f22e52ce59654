"""The chat itself: a line is a command or is answered, and what its author says about themselves may be remembered.

Whatever goes wrong with a line is said, and the chat goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from ..errors import PersonalizationError
from ..hparams import PersonalizationHyperParams
from ..learning.learned import Learned
from ..learning.learner import Learner
from ..learning.session import Reader, believed, learn_once
from ..progress import progress_within
from ..serving.conversation import Conversation
from ..serving.personalized import PersonalizedModel
from ..statements.memory import current, is_added, overrules
from ..statements.preferences import Unclear
from ..store import EditStore
from ..types import Preference
from .chat_commands import obey
from .screen import NO, YES, Screen, interruptible
from .session import settle
from .transcript import Transcript
from .understood import agreed, say_learned, say_understood, settle_earlier, value_without_kind

Remember = Literal["ask", "always", "never"]


class ChatSession:
    """One chat in one terminal, of one user at a time.

    Args:
        screen: where lines come from and answers go.
        model, tokenizer, store, hparams: as ``PersonalizedModel`` and ``Learner`` take them.
        user: who talks.
        reader: makes preferences of plain words, for what is to be learned.
        remember: what happens to statements about oneself.
        max_new_tokens: the longest answer.
        transcript: where conversations are kept beyond the chat's end.
        asks: whether /learn says what it understood and asks first.
    """

    def __init__(
        self,
        screen: Screen,
        model: nn.Module,
        tokenizer: Any,
        store: EditStore,
        hparams: PersonalizationHyperParams,
        *,
        user: str,
        reader: Reader | None = None,
        remember: Remember = "ask",
        max_new_tokens: int | None = None,
        transcript: Transcript | None = None,
        asks: bool = False,
    ) -> None:
        self.screen, self.store, self.hparams, self.user = screen, store, hparams, user
        self.served = PersonalizedModel(model, tokenizer, store, hparams=hparams)
        self.reader, self.remember = reader or Reader(), remember
        self.max_new_tokens, self.asks = max_new_tokens, asks
        self._transcript = transcript
        self._talks: dict[str, Conversation] = {}
        self._learner: Learner | None = None
        self._offered: set[tuple[str, str, str]] = set()
        self._next: str | None = None
        self._cut = False  # whether --max-new-tokens has ended the last answer
        self._rules = Reader()  # a language model is not sent every word of a chat
        self.talk  # noqa: B018 - a wrong max_new_tokens is said now

    @property
    def talk(self) -> Conversation:
        """The current user's conversation; nobody sees another one's."""
        if self.user not in self._talks:
            served, user = self.served, self.user
            talk = self._talks[user] = Conversation(
                served.model,
                served.tokenizer,
                prompt_format=served.prompt_format,
                max_new_tokens=self.max_new_tokens,
                told=lambda prompt: served.prompt_for(user, prompt),
            )
            talk.exchanges += self._transcript.of(user) if self._transcript else []
        return self._talks[self.user]

    @property
    def learner(self) -> Learner:
        """Made when it is needed first: many chats never learn."""
        if self._learner is None:
            self._learner = Learner(self.served.model, self.served.tokenizer, self.store, self.hparams)
        return self._learner

    def run(self) -> None:
        """Until /quit or the end of the input."""
        known, earlier = len(self.known()), len(self.talk.exchanges)
        so_far = f", {_count(earlier, 'exchange')} so far" if earlier else ""
        self.screen.say(
            f"You are {self.user}; {_count(known, 'preference')}{so_far}. /help lists commands, /quit leaves.", "dim"
        )
        while True:
            try:
                line = self._line()
                if line.strip() and not self._handled(line):
                    return
            except EOFError:
                self.screen.say("" if self.screen.interactive else "(end of input)", "dim")
                return
            except KeyboardInterrupt:
                self.screen.say("\n(/quit or Ctrl-D leaves.)", "dim")
            except PersonalizationError as error:
                self.screen.say(str(error), "red")

    def known(self) -> list[Preference]:
        """What holds of the current user, in weights and in words."""
        return current(self.store.preferences(self.user))

    def teach(self, preferences: Sequence[Preference]) -> None:
        """Say what was understood and ask, where that is wanted; then learn."""
        if self.asks:
            known = self.known()
            preferences = settle_earlier(self.screen, preferences, known, self.ask)
            if preferences:
                say_understood(self.screen, preferences, known)
            if not preferences or not agreed(self.ask):
                self.screen.say("Not learned.", "dim")
                return
        for place, preference in enumerate(preferences, start=1):
            if not self.learn(preference):
                left = "; ".join(f"{one.subject}: {one.target}" for one in preferences[place:])
                self.screen.say(f"Not learned either: {left}." if left else "")
                return

    def learn(self, preference: Preference) -> bool:
        """Teach the current user's model, and say what came of it; False if Ctrl-C has stopped it."""
        version = self.store.version(self.user)
        try:
            with progress_within("Learning (Ctrl-C stops)", 0, 1):
                result = learn_once(self.learner, self.user, [preference], settled=self.asks)[0]
        except KeyboardInterrupt:
            self._learner = None  # its model may be torn; the next one gets matrices of its own from the base model
            kept = self.store.version(self.user) != version
            self.screen.say(
                "\nStopped, " + ("but it had been learned: see /prefs." if kept else "nothing was learned.")
            )
            return False
        if isinstance(result, Learned):
            say_learned(self.screen, result)
        else:
            self.screen.say(f"I knew that already (edit {result.id}).", "dim")
        return True

    def settled(self, unclear: Unclear) -> Preference | None:
        """Ask back until it is clear."""
        self.screen.say(f'About "{unclear.text}" (Enter leaves it):', "dim")
        return settle(self.screen, self.reader, unclear, self.user, self.ask)

    def ask(self, question: str) -> str:
        """A question to the user, and the reply."""
        self.screen.say(question)
        return self.screen.read("? ")

    def become(self, user: str) -> None:
        """Somebody else talks from now on."""
        self.user = user
        known = len(self.known())
        earlier = _count(len(self.talk.exchanges), "exchange")
        self.screen.say(f"You are {user} now; {_count(known, 'preference')}, {earlier} so far.", "dim")

    def forget(self) -> int:
        """Remove the current user from the store and from memory."""
        count = self.store.forget(self.user)
        self.served.factors(self.user)  # what was kept in memory is replaced by nothing
        self._talks.pop(self.user, None)
        if self._transcript:
            self._transcript.keep(self.user, [])
        return count

    def keep_talk(self) -> None:
        """Keep the conversation as it is now, where that was asked for."""
        if self._transcript:
            self._transcript.keep(self.user, self.talk.exchanges)

    def _line(self) -> str:
        """The next line: one that a question back did not take as its reply, or a new one."""
        line, self._next = self._next, None
        return self.screen.read(f"{self.user}> ") if line is None else line

    def _handled(self, line: str) -> bool:
        """Carry out a command, or answer; False ends the chat."""
        if line.startswith("/"):
            return obey(self, line)
        if self._answer(line) and self.remember != "never":
            for found in self._rules.read(line, self.user):
                if self._next is None:
                    self._offer(found)
        return True

    def _answer(self, line: str) -> bool:
        """Write the answer; False if it was stopped."""
        messages, dropped = self.talk.ask(line)
        if dropped:
            gone = _count(dropped, "exchange")
            self.screen.say(f"(The conversation no longer fits the model's context: the oldest {gone} dropped.)", "dim")
        answer, stopped = self._written(messages)
        self.talk.answered(line, answer)
        self.keep_talk()
        if not stopped:
            self._offer_more()
        return not stopped

    def more(self) -> None:
        """Go on with the last answer, if it was cut."""
        last = self.talk.last()
        if last is None or not self._cut:
            self.screen.say("There is nothing to go on with: the last answer has ended by itself.")
            return
        rest, _ = self._written(last[0], last[1])
        self.talk.went_on(last[1] + rest)
        self.keep_talk()
        self._offer_more()

    def _written(self, messages: list[dict[str, str]], begun: str = "") -> tuple[str, bool]:
        """Write an answer, or the rest of one; what was written, and whether Ctrl-C has stopped it."""
        limit = self.talk.max_new_tokens
        with interruptible() as stopped:
            pieces = self.served.stream_for(self.user, messages, max_new_tokens=limit, begun=begun)
            answer, was_stopped = self.screen.stream(pieces, stopped)
        self._cut = bool(answer) and pieces.cut and not was_stopped
        if was_stopped:
            self.screen.say("(stopped)", "dim")
        return answer, was_stopped

    def _offer_more(self) -> None:
        """Say that an answer was cut; at a terminal offer to go on, elsewhere say how."""
        if not self._cut:
            return
        said = f"(cut at {self.talk.max_new_tokens} tokens"
        if not self.screen.interactive:
            self.screen.say(f"{said}; /more goes on)", "dim")
            return
        reply = self._reply(f"{said}) Go on? [y/N]")
        if reply.strip().casefold() in YES:
            self.more()
        elif reply.strip().casefold().rstrip(".!") not in NO:
            self._next = reply  # no reply at all, but the chat's next line

    def _offer(self, found: Preference | Unclear) -> None:
        """Offer to remember a statement; where its kind is missing, say how; pass over all else."""
        wanted = found.suggestion if isinstance(found, Unclear) else found
        if wanted is None:
            self._hint(found)
            return
        offer = (self.user, wanted.subject, wanted.target)
        if offer in self._offered or believed(self.store, self.user, wanted):
            return
        if self.remember == "always" and isinstance(found, Preference):
            self.learn(wanted)
            return
        self._offered.add(offer)
        reply = self._reply(f'Shall I remember "{wanted.subject}: {wanted.target}"{self._instead(wanted)}? [y/n]')
        word = reply.strip().casefold().rstrip(".!")
        if word in YES:
            self.learn(wanted)
        else:
            self.screen.say("Not remembered.", "dim")
            self._next = reply if word not in NO else None  # no reply at all, but the chat's next line

    def _instead(self, wanted: Preference) -> str:
        """What would no longer hold; nothing for kinds whose values are added to each other."""
        earlier = [] if is_added(wanted.subject) else [one for one in self.known() if overrules(wanted, one)]
        said = ", ".join(f'"{one.subject}: {one.target}"' for one in earlier if one.target != wanted.target)
        return f" instead of {said}" if said else ""

    def _hint(self, found: Preference | Unclear) -> None:
        value = value_without_kind(found)
        offer = (self.user, "", value or "")
        if value and offer not in self._offered:
            self._offered.add(offer)
            self.screen.say(f"(To have that remembered say what it is to you: /learn my hobby is {value})", "dim")

    def _reply(self, question: str) -> str:
        try:
            return self.ask(question)
        except KeyboardInterrupt:
            self.screen.say("")
            return ""


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number or 'no'} {what}s"
