"""The statements that several operations share, each inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Select, bindparam, func, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from ..errors import StoreConflict, StoreError, StoreOvertaken
from .blobs import HEAD
from .database import Database, insert_into
from .encryption import Encryption, UserKey
from .records import WORDS, StoredEdit
from .rows import check_row, checksum, undone_checksum, unpack_edit
from .schema import Number, clock, edits, merges, meta, read_meta, settings, ticks, user_keys, users
from .shared import SharedFactors


def _upsert(kind: Any, changed: Any) -> Any:
    row = kind.insert(users).values(owner=bindparam("owner"), changed=changed)
    return row.on_conflict_do_update(index_elements=["owner"], set_={"changed": changed}).returning(users.c.changed)


# Built once: SQLAlchemy takes longer to build a statement than SQLite to run it, and others wait meanwhile.
_TICK = update(clock).values(tick=clock.c.tick + 1).returning(clock.c.tick)
_NEXT_TICK = select(ticks.next_value())
_TOUCH = {
    "sqlite": _upsert(sqlite, bindparam("tick", type_=Number)),
    # On a conflict the tick is drawn once the row is locked, so that a user's ticks rise in the order of commits.
    "postgresql": _upsert(postgresql, ticks.next_value()),
}
_FIND = select(edits.c.id).where(edits.c.token == bindparam("token"))
_ADD = insert(edits)
KEY_ID = select(meta.c.value).where(meta.c.name == "encryption")


def touch(connection: Connection, owner: bytes) -> int:
    """Note a change of this user, and keep others from changing them until the transaction ends.

    Returns:
        The tick of the change.
    """
    values: dict[str, Any] = {"owner": owner}
    if connection.dialect.name == "sqlite":
        values["tick"] = connection.scalar(_TICK)
    return int(connection.execute(_TOUCH[connection.dialect.name], values).scalar_one())


def lock_version(connection: Connection, owner: bytes) -> int:
    """The tick of a user's last change, 0 for a new one; nobody else changes them until the transaction ends."""
    row = insert_into(connection, users).values(owner=owner, changed=0)
    connection.execute(row.on_conflict_do_nothing())  # two who come first with the same user must not both find nobody
    return connection.scalar(select(users.c.changed).where(users.c.owner == owner).with_for_update()) or 0


def check_version(user: str, known: int | None, version: int | None) -> None:
    """Raise where a user's edits are not those of a version.

    Raises:
        StoreOvertaken: they have changed.
    """
    if known != version:
        raise StoreOvertaken(
            f"The edits of user {user!r} have changed meanwhile.",
            got=f"version {known}",
            needed=f"version {version}",
            remedy="read them again",
        )


def next_tick(connection: Connection) -> int:
    """A number for a row that is no change of a user's edits."""
    return int(connection.scalar(_TICK if connection.dialect.name == "sqlite" else _NEXT_TICK) or 0)


def find_token(connection: Connection, token: bytes) -> int | None:
    """The edit that was put under an idempotency key."""
    return connection.scalar(_FIND, {"token": token})


def add_setting(connection: Connection, packed: tuple[bytes, str]) -> None:
    """Keep hyper-parameters (``rows.pack_settings``) unless they are there."""
    setting = insert_into(connection, settings).values(digest=packed[0], content=packed[1])
    connection.execute(setting.on_conflict_do_nothing())


def add_edit(connection: Connection, row: dict[str, Any]) -> None:
    """Insert an edit with its checksum."""
    connection.execute(_ADD, {**row, "checksum": checksum(row)})


def mark_undone(connection: Connection, numbers: list[int]) -> None:
    """Take live edits back."""
    seals = connection.execute(select(edits.c.id, edits.c.checksum).where(edits.c.id.in_(numbers))).all()
    for number, seal in seals:
        values = {"live": 0, "checksum": undone_checksum(seal)}
        connection.execute(update(edits).where(edits.c.id == number).values(**values))


def mark_live(connection: Connection, numbers: list[int]) -> None:
    """Give undone edits back.

    Raises:
        StoreError: one of them is damaged.
    """
    for row in connection.execute(select(edits).where(edits.c.id.in_(numbers))).all():
        check_row(row)
        values = {"live": 1, "checksum": checksum({**row._asdict(), "live": 1})}
        connection.execute(update(edits).where(edits.c.id == row.id).values(**values))


def find_user_key(connection: Connection, owner: bytes, encryption: Encryption) -> UserKey:
    """A user's key, or a new one that the store does not have yet; see ``keep_user_key``."""
    wrapped = connection.scalar(select(user_keys.c.wrapped).where(user_keys.c.owner == owner))
    if wrapped is not None:
        return encryption.user_key(owner, wrapped)
    return encryption.new_key(owner, str(connection.scalar(KEY_ID)))


def keep_user_key(connection: Connection, tick: int, key: UserKey) -> None:
    """Keep a new key, to be called once the user is locked; see that a known one is still the user's.

    Raises:
        StoreConflict: the user was forgotten, has got a key, or the store's key was rotated: encrypt once more.
    """
    known = connection.scalar(select(user_keys.c.wrapped).where(user_keys.c.owner == key.owner))
    if known is None and key.is_new:
        # Shared with other writers of new keys, not with ``key_rotation.rotate``, which must not miss this one.
        if key.is_wrapped_with(str(connection.scalar(KEY_ID.with_for_update(read=True)))):
            connection.execute(insert(user_keys).values(id=tick, owner=key.owner, wrapped=key.wrapped))
            return
    elif known == key.wrapped:
        return
    raise StoreConflict("A user's key has changed meanwhile.", remedy="encrypt their edit again")


def with_keys(query: Select[Any]) -> Select[Any]:
    """The query of ``edits`` with each user's wrapped key; in one statement, so that the two belong together."""
    return query.add_columns(user_keys.c.wrapped).outerjoin(user_keys, user_keys.c.owner == edits.c.owner)


def live_edits(owner: bytes) -> Select[Any]:
    """A user's live edits with their factors, oldest first; what is kept in words has none."""
    mine = with_keys(select(edits)).where(edits.c.owner == owner, edits.c.live == 1, edits.c.kernel != WORDS)
    return mine.order_by(edits.c.id)


def believed_records(owner: bytes) -> Select[Any]:
    """Records of a user's live edits, and of those that were merged into live ones."""
    target = edits.alias("target")
    query = with_keys(select(edits.c.id, edits.c.owner, edits.c.user, edits.c.kernel, edits.c.record))
    query = query.outerjoin(merges, merges.c.edit == edits.c.id).outerjoin(target, target.c.id == merges.c.target)
    return query.where(edits.c.owner == owner, or_(edits.c.live == 1, target.c.live == 1)).order_by(edits.c.id)


def read_history(
    connection: Connection, owner: bytes, encryption: Encryption | None, shared: SharedFactors
) -> list[StoredEdit]:
    """All edits of a user without their factors, oldest first."""
    columns = [column for column in edits.c if column.name != "factors"]
    nbytes = func.length(edits.c.factors).label("nbytes")
    head = func.substr(edits.c.factors, 1, HEAD).label("head")
    query = with_keys(select(*columns, nbytes, head, settings.c.content, merges.c.target))
    query = query.outerjoin(settings, settings.c.digest == edits.c.settings)
    query = query.outerjoin(merges, merges.c.edit == edits.c.id).where(edits.c.owner == owner)
    rows = connection.execute(query.order_by(edits.c.id)).all()
    sizes = shared.sizes(connection, [row.id for row in rows])
    return [unpack_edit(row, encryption, sizes.get(row.id, 0)) for row in rows]


def bind(database: Database, given: Mapping[str, str]) -> dict[str, str]:
    """What the store knows of itself, after it has learned or compared fingerprints and the place of factors.

    Args:
        database: the store's.
        given: by name; "model_name" is what to call the model in messages, and is compared with nothing.

    Raises:
        StoreError: it was made with another model or tokenizer, or keeps factors elsewhere.
    """
    with database.reading() as connection:
        known = read_meta(connection)
    _check_bound(database, given, known)
    if given.keys() - known.keys():
        with database.writing() as connection:
            for name, value in given.items():
                row = insert_into(connection, meta).values(name=name, value=value)
                connection.execute(row.on_conflict_do_nothing())
            known = read_meta(connection)
        _check_bound(database, given, known)
    return known


def _check_bound(database: Database, given: Mapping[str, str], known: Mapping[str, str]) -> None:
    """Raise if something given is not what the store was made with; what the store does not know yet may be any."""
    for name, value in given.items():
        if name == "model_name" or known.get(name, value) == value:
            continue
        if name == "factors":
            raise StoreError(f"{database} keeps its factors elsewhere.", got=value, needed=known[name])
        made_with = known.get("model_name") or "a model without a name"
        raise StoreError(
            f"{database} was made with another {'base model' if name == 'model' else name}.",
            got=f"{given.get('model_name', 'no model')}; {name} {value}",
            needed=f"{made_with}; {name} {known[name]}",
            cause="another model, other weights under the same name (original or quantised), or another number format",
            remedy="load the one that it was made with, or open another store",
        )
