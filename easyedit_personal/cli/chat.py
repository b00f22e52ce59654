"""``easyedit-personal chat``: talk to a user's own copy of the model, teach it, take it back, be somebody else.

Lines may come from a terminal or from a file; what comes from a file is written along with the answers.
"""

from __future__ import annotations

from typing import Literal

import typer

from .session import DEVICE, ENDPOINT, ENDPOINT_MODEL, HPARAMS, KERNEL, MODEL, STORE, find_reader, find_settings


def chat(
    store: str = STORE,
    user: str = typer.Option(..., "--user", "-u", help="Who you are; /as USER changes it."),
    remember: Literal["ask", "always", "never"] = typer.Option(
        "ask", "--remember", help="What you say about yourself is learned: when you say so, always, or by /learn only."
    ),
    model: str = MODEL,
    hparams: str = HPARAMS,
    kernel: str = KERNEL,
    device: str = DEVICE,
    max_new_tokens: int = typer.Option(
        None, "--max-new-tokens", min=1, help="Longest answer; default: a quarter of the context.", show_default=False
    ),
    history: str = typer.Option(
        None,
        "--history",
        help="Keep the conversation in this file (not encrypted) and go on from it.",
        show_default=False,
    ),
    yes: bool = typer.Option(False, "--yes", "-y", help="Learn what /learn was told without asking."),
    endpoint: str = ENDPOINT,
    endpoint_model: str = ENDPOINT_MODEL,
) -> None:
    """Talk to a user's own copy of the model; /help lists what else you can do."""
    from ..modeling.loading import load_model
    from ..store import EditStore
    from ..store.database import check_store
    from ..store.ids import check_user
    from .chat_session import ChatSession
    from .screen import Screen
    from .transcript import Transcript

    screen = Screen()
    settings = find_settings(model, hparams, kernel, device)
    reader = find_reader(endpoint, endpoint_model)
    check_user(user)
    check_store(store)
    kept = None if history is None else Transcript(history)
    with screen.working("Loading the model ..."):
        loaded, tokenizer = load_model(settings)
    with EditStore.open(store, loaded, tokenizer) as opened:
        session = ChatSession(
            screen,
            loaded,
            tokenizer,
            opened,
            settings,
            user=user,
            reader=reader,
            remember=remember,
            max_new_tokens=max_new_tokens,
            transcript=kept,
            asks=screen.interactive and not yes,
        )
        session.run()
