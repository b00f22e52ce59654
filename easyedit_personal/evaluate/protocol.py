"""Two ways to ask and to judge: ours, and the paper's for comparison.

The paper's released code (amazon-science/personalization-editing-upqa, commit ddfec3a) edits and asks without a chat
template, cuts answers at the target's length plus a few tokens, and counts a hit when either text contains the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from ..errors import ConfigError
from ..generation.score import contained
from ..hparams import PersonalizationHyperParams
from ..modeling.tokens import PromptFormat

ProtocolName = Literal["natural", "paper"]


@dataclass(frozen=True)
class Protocol:
    """How questions are put and answers judged.

    Attributes:
        name: "natural" or "paper".
        prompt_format: of edits and questions; "auto" applies the chat template where there is one.
        reported: tokens beyond the target's length at which answers are cut and scored, beside the main cut, which
            the question says itself (``Ask.cut``); empty: natural stop.
        restores: whether the model is reset between users; the paper's code does not for clusters over 1.
    """

    name: ProtocolName
    prompt_format: PromptFormat = "auto"
    reported: Sequence[int] = ()
    restores: bool = True

    def editing(self, hparams: PersonalizationHyperParams) -> PersonalizationHyperParams:
        """The settings that methods edit with under this protocol.

        An edit is made in the format that questions are asked in. The paper's code also teaches the bare value, without
        the token that ends a turn, since it looks at no more of an answer than the target's length and a few tokens.

        Raises:
            ConfigError: the settings ask for the chat template, and this protocol has none.
        """
        if self.prompt_format != "raw":
            return hparams
        if hparams.prompt_format == "chat":
            raise ConfigError(
                f"The {self.name} protocol edits and asks bare prompts.",
                got="prompt_format: chat",
                remedy="set prompt_format: auto, or leave --protocol out",
            )
        return hparams.replace(prompt_format="raw", end_of_turn=False, answers="short")

    def limit(self, target_tokens: int, longest: int) -> int:
        """How many tokens to generate for a question whose target has ``target_tokens``."""
        return target_tokens + max(self.reported) if self.reported else longest

    def cut(self, extra: int) -> int | None:
        """Extra tokens of a question's main score, None for natural stop."""
        return extra if self.reported else None

    def _formats(self) -> dict[str, str]:
        if self.prompt_format == "raw":
            return {"prompts": "raw", "edits": "raw prompts, bare values"}
        return {"prompts": "chat template where the model has one"}

    def hit(self, text: str, target: str) -> bool:
        """Whether an answer gives the target."""
        return paper_match(text, target) if self.name == "paper" else contained(text, target)

    def describe(self) -> dict[str, Any]:
        """What result files say about it."""
        return {
            "name": self.name,
            **self._formats(),
            "stop": f"cut at the target's length plus {list(self.reported)} tokens" if self.reported else "natural",
            "match": "either contains the other" if self.name == "paper" else "target contained, whole words",
            "restores_between_users": self.restores,
        }


def paper_match(text: str, target: str) -> bool:
    """The released code's rule: either text contains the other, ignoring case; an empty answer counts as a hit."""
    answer = text.replace("\n", " ").strip().rstrip(".").lower()
    return answer in target.lower() or target.lower() in answer


PROTOCOLS = MappingProxyType(
    {
        "natural": Protocol("natural"),
        "paper": Protocol("paper", "raw", (0, 8, 32)),
    }
)


def find_protocol(name: str, restores: bool = True) -> Protocol:
    """The protocol of that name.

    Args:
        restores: False keeps every user's edit in the model for the next one, as the released code does for clusters.

    Raises:
        ConfigError: there is none, or ``restores`` is False under our own protocol.
    """
    if name not in PROTOCOLS:
        raise ConfigError(f"There is no protocol {name!r}.", needed=f"one of {', '.join(PROTOCOLS)}")
    found = PROTOCOLS[name]
    if restores:
        return found
    if name != "paper":
        raise ConfigError(
            "Keeping one user's edit for the next belongs to the paper's protocol only.", remedy="--protocol paper"
        )
    return Protocol(found.name, found.prompt_format, found.reported, restores=False)
