"""A service of a tiny model with four users, asked in process; and a switch that holds its model."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed")

from starlette.testclient import TestClient

from easyedit_personal.service.access import Access
from easyedit_personal.service.app import create_app
from easyedit_personal.service.core import Service
from easyedit_personal.service.settings import Settings
from easyedit_personal.store import EditStore
from tests.editing.test_editor import settings as recipe
from tests.serving.test_personalized import random_delta
from tests.tiny import tiny_model, tiny_tokenizer
from tests.waiting import PATIENCE

USERS = {"alice": 2, "bob": 4, "carol": 7, "../../etc/passwd": 3}  # with the ranks of their edits


class Held:
    """Holds a model's forward passes, and counts their rows."""

    def __init__(self, model):
        self.rows, self.entered, self._go = [], threading.Event(), threading.Event()
        self._go.set()

        def wait(module, args, kwargs):  # a plain function: the learner's copy of the model has it too, and ignores it
            if module is model:
                self.entered.set()
                assert self._go.wait(PATIENCE)
                self.rows.append(kwargs["input_ids"].shape[0])

        model.register_forward_pre_hook(wait, with_kwargs=True)

    def hold(self):
        self.entered.clear()
        self._go.clear()

    def release(self):
        self._go.set()


class Place:
    """Starts services and clients, and stops them all at the end."""

    def __init__(self, folder, stack):
        self.model, self.tokenizer, self.stack = tiny_model("llama"), tiny_tokenizer(), stack
        self.held = Held(self.model)
        self.store = stack.enter_context(EditStore.open(folder / "edits.db", self.model, self.tokenizer))
        for seed, (user, rank) in enumerate(USERS.items()):
            self.store.put(user, [random_delta(self.model, rank, seed)])

    def service(self, *, finetune=None, **settings) -> Service:
        hparams = recipe(self.model, self.tokenizer, finetune=finetune or {"lr": 0.02, "steps": 2})
        values = {"name": "tiny", "max_new_tokens": 24, "window": 0.01, **settings}
        service = Service(self.model, self.tokenizer, self.store, hparams, Settings(**values))
        self.stack.callback(service.close)
        return service

    def client(self, tokens=None, *, clock=None, service=None, page=True, request_log=None, **settings) -> TestClient:
        self.last = service or self.service(**settings)
        options = {"page": page, "request_log": request_log, **({"clock": clock} if clock else {})}
        app = create_app(self.last, Access(tokens), **options)
        client = TestClient(app, base_url="http://localhost", raise_server_exceptions=False)
        return self.stack.enter_context(client)


@pytest.fixture
def place(tmp_path):
    with ExitStack() as stack:
        made = Place(tmp_path, stack)
        yield made
        made.held.release()


@pytest.fixture
def client(place):
    return place.client()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """As ``place``, for tests of one file that leave everything as it was."""
    with ExitStack() as stack:
        yield Place(tmp_path_factory.mktemp("shared"), stack)


@pytest.fixture(scope="module")
def reader(shared):
    """A client of the shared place."""
    return shared.client()


def wanted(content="What's my hobby?", model="tiny", **more):
    """A request for a completion."""
    messages = content if isinstance(content, list) else [{"role": "user", "content": content}]
    return {"model": model, "messages": messages, **more}
