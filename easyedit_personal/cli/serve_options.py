"""The options of ``serve`` that no other command has: where it listens, who may use it, and its limits."""

from __future__ import annotations

import typer

ANSWERS, LIMITS, ACCESS, LOGGING = "Answers", "Limits", "Access", "Logging"

HOST = typer.Option("127.0.0.1", "--host", help="The address to listen on; any but loopback needs a token.")
PORT = typer.Option(8000, "--port", min=0, max=65535, help="0 takes a free one.")
TOKEN = typer.Option(
    None,
    "--token",
    envvar="EASYEDIT_PERSONAL_TOKEN",
    help="One token for all users; others on this machine can see it here, so prefer a file.",
    rich_help_panel=ACCESS,
)
TOKEN_FILE = typer.Option(None, "--token-file", help="A file with one token for all users.", rich_help_panel=ACCESS)
USERS_FILE = typer.Option(
    None, "--users-file", help="YAML: tokens, each with its users' ids or *.", rich_help_panel=ACCESS
)
CERTIFICATE = typer.Option(None, "--certificate", help="For TLS, in PEM.", rich_help_panel=ACCESS)
KEY = typer.Option(None, "--key", help="The certificate's key.", rich_help_panel=ACCESS)
NAME = typer.Option(
    "", "--name", help="What clients call the model; its own name if not given.", rich_help_panel=ANSWERS
)
MAX_NEW_TOKENS = typer.Option(256, "--max-new-tokens", min=1, help="The longest answer.", rich_help_panel=ANSWERS)
MAX_ROWS = typer.Option(32, "--max-rows", min=1, help="The most answers written at a time.", rich_help_panel=ANSWERS)
MAX_WAITING = typer.Option(128, "--max-waiting", min=1, help="Answers that wait for a place.", rich_help_panel=LIMITS)
RATE = typer.Option(600, "--rate", min=1, help="Requests per minute and token.", rich_help_panel=LIMITS)
EDIT_RATE = typer.Option(
    60, "--edit-rate", min=1, help="Changes of users' models per minute and token.", rich_help_panel=LIMITS
)
LEARNERS = typer.Option(
    1, "--learners", min=0, help="How many learn in this process; 0 leaves it to `easyedit-personal learn`."
)
MAX_JOBS = typer.Option(256, "--max-jobs", min=1, help="Preferences that wait to be learned.", rich_help_panel=LIMITS)
MAX_USER_JOBS = typer.Option(16, "--max-user-jobs", min=1, help="The same, for one user.", rich_help_panel=LIMITS)
MAX_BODY = typer.Option(256 * 1024, "--max-body", min=1, help="The longest request, in bytes.", rich_help_panel=LIMITS)
PAGE = typer.Option(True, " /--no-page", help="Leave out the page at / to try it on.", show_default=False)
REQUEST_LOG = typer.Option(
    None,
    "--request-log",
    help="A file that gets a line of JSON per request; - is standard output.",
    rich_help_panel=LOGGING,
)
LOG_USERS = typer.Option(
    False, "--log-users", help="Write users' ids to the request log, too.", rich_help_panel=LOGGING
)
