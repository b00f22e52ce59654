"""``easyedit-personal learn``: a learner of its own for a store's queue, on this machine or many."""

from __future__ import annotations

from .session import DEVICE, HPARAMS, KERNEL, MODEL, STORE, find_settings


def learn(
    store: str = STORE,
    model: str = MODEL,
    hparams: str = HPARAMS,
    kernel: str = KERNEL,
    device: str = DEVICE,
) -> None:
    """Learn the preferences that `serve` has queued, here or on any machine that shares its store; until stopped."""
    import logging
    import signal

    from ..learning.learner import Learner
    from ..modeling.loading import load_model
    from ..service.worker import Worker
    from ..store import EditStore
    from ..store.database import check_store

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    found = find_settings(model, hparams, kernel, device)
    check_store(store)
    loaded, tokenizer = load_model(found)
    with EditStore.open(store, loaded, tokenizer) as opened:
        worker = Worker(Learner(loaded, tokenizer, opened, found))
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: worker.stop())
        print("Learning; stop with Ctrl-C, what was begun is left for others.", flush=True)
        worker.run()
