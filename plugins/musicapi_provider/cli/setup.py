"""
``airflow musicapi setup``: make connections and the pool for creates, or change them; show no secret.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.models.connection import Connection
from airflow.models.pool import Pool
from airflow.utils.session import create_session
from sqlalchemy import select

from musicapi_provider.exceptions import MusicAPIConfigurationError
from musicapi_provider.hooks.connection import settings_from

if TYPE_CHECKING:
    import argparse

    from sqlalchemy.orm import Session

#: By this description a connection or pool is known as ours, to be changed without ``--force``.
MADE = "Made by: airflow musicapi setup"
_CONNECTION_FIELDS = ("conn_type", "host", "login", "password", "extra")
_POOL_FIELDS = ("slots", "include_deferred")
_NO_FURTHER_EXTRA = "{}"


def setup(args: argparse.Namespace) -> None:
    """Do what the environment asks for and say what was done; exit with 1 when something was left undone."""
    try:
        wanted = wanted_from(os.environ, args)
    except MusicAPIConfigurationError as error:
        sys.exit(str(error))
    undone = False
    with create_session() as session:
        for name, one in wanted.items():
            said = _settle(session, one, force=args.force) if one else "left alone: not in the environment"
            undone |= said.startswith("NOT")
            sys.stdout.write(f"{name}: {said}\n")
    if undone:
        sys.exit(1)


def wanted_from(environ: Mapping[str, str], args: argparse.Namespace) -> dict[str, Connection | Pool | None]:
    """
    Return what is wanted by what it is called, and ``None`` where the environment gives nothing.

    :raises MusicAPIConfigurationError: if the connection could not be used; nothing has been changed then.
    """
    return {
        f"connection {args.conn_id}": _api(environ, args.conn_id),
        f"connection {args.s3_conn_id}": _s3(environ, args.s3_conn_id),
        f"pool {args.pool}": _pool(environ, args.pool),
    }


def _api(environ: Mapping[str, str], conn_id: str) -> Connection | None:
    if not environ.get("MUSICAPI_KEY"):
        return None
    connection = Connection(
        conn_id=conn_id,
        conn_type="musicapi",
        host=environ.get("MUSICAPI_BASE_URL") or None,
        password=environ["MUSICAPI_KEY"].strip(),
        extra=environ.get("MUSICAPI_EXTRA") or None,
        description=MADE,
    )
    settings_from(connection)
    return connection


def _s3(environ: Mapping[str, str], conn_id: str) -> Connection | None:
    names = ("MUSICAPI_S3_ACCESS_KEY", "MUSICAPI_S3_SECRET_KEY", "MUSICAPI_S3_ENDPOINT_URL")
    login, password, endpoint = (environ.get(name) or None for name in names)
    if not (login or endpoint):
        return None
    extra = {"region_name": environ.get("MUSICAPI_S3_REGION") or "us-east-1"}
    if endpoint:
        extra["endpoint_url"] = endpoint
    return Connection(
        conn_id=conn_id, conn_type="aws", login=login, password=password, extra=extra, description=MADE
    )


def _pool(environ: Mapping[str, str], name: str) -> Pool:
    slots = environ.get("MUSICAPI_CREATE_SLOTS") or "4"
    if not slots.isdecimal():
        raise MusicAPIConfigurationError(
            f"MUSICAPI_CREATE_SLOTS must be a whole number, 0 or more; got {slots!r}.",
            next_step="correct the environment variable.",
        )
    return Pool(pool=name, slots=int(slots), description=MADE, include_deferred=False)


def _settle(session: Session, wanted: Connection | Pool, *, force: bool) -> str:
    """Make the database hold what is wanted, and say what that took."""
    is_pool = isinstance(wanted, Pool)
    query: Any = (
        select(Pool).where(Pool.pool == wanted.pool)
        if isinstance(wanted, Pool)
        else select(Connection).where(Connection.conn_id == wanted.conn_id)
    )
    found = session.scalar(query)
    if found is None:
        session.add(wanted)
        return "created"
    fields = _POOL_FIELDS if is_pool else _CONNECTION_FIELDS
    different = [field for field in fields if _value(found, field) != _value(wanted, field)]
    if not different:
        return "as wanted"
    if found.description != MADE and not force:
        return (
            f"NOT changed: somebody else has made it, and it differs in {', '.join(different)}; see --force"
        )
    for field in (*different, "description"):
        setattr(found, field, getattr(wanted, field))
    return f"changed: {', '.join(different)}"


def _value(owner: object, field: str) -> object:
    value = getattr(owner, field)
    return json.loads(value or _NO_FURTHER_EXTRA) if field == "extra" else value or None
