"""A driver of its own process: ``python -m tests.engines.drive USERS STORE FAILURES ENGINE NOTES``."""

from __future__ import annotations

import sys

from easyedit_personal.bulk.bulk import Bulk
from easyedit_personal.bulk.run import personalize_users
from easyedit_personal.engines import Limits, find_engine
from tests.engines.random_factors import RandomFactors

if __name__ == "__main__":
    users, store, failures, engine, notes = sys.argv[1:]
    work = Bulk(store, RandomFactors(pause=0.01, notes=notes))
    tally = personalize_users(
        users, work, find_engine(engine, Limits(workers=2, seconds=60.0)), failures=failures, batch=8
    )
    print(tally.new, tally.there, tally.failed)
