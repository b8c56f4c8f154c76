"""
What the API server serves: the tracks page's script, the list of tracks, their files, what tasks have left.

Everything wants Airflow's login. What a user may not read is answered as what is not there.
"""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import Annotated

from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.core_api.security import get_user
from airflow.api_fastapi.logging.decorators import action_logging
from airflow.sdk import ObjectStoragePath
from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.responses import FileResponse, JSONResponse, Response

from musicapi_provider.exceptions import MusicAPIError, MusicAPIInvalidRequestError
from musicapi_provider.ui.access import Folders, Reader, destinations
from musicapi_provider.ui.library import Library
from musicapi_provider.ui.lost_answers import Decided, decide, lost_answers_of
from musicapi_provider.ui.responses import SAFE, file_response
from musicapi_provider.ui.stored_files import stored_file
from musicapi_provider.ui.task_instances import TaskInstanceRef, is_linked, look_at, manifest_of
from musicapi_provider.ui.track_list import Filters, list_tracks

log = logging.getLogger(__name__)

#: The page's script, and what it imports.
SCRIPTS = {name: Path(__file__).with_name(name) for name in ("tracks_page.js", "lost_answers.js", "parts.js")}
#: How a track's field is called in an address.
MEDIA = {"audio": "file", "cover": "cover"}
TASK = "/dags/{dag_id}/runs/{run_id}/tasks/{task_id}"

#: Handlers are no coroutines: storages and databases block. No pages of documentation: they have no login.
app = FastAPI(
    title="MusicAPI", dependencies=[Depends(get_user)], openapi_url=None, docs_url=None, redoc_url=None
)
library, folders = Library(), Folders()


def _warm_up() -> None:
    """Let Airflow register its file systems before somebody waits for that: a quarter of a second."""
    _ = ObjectStoragePath("file:///").fs


threading.Thread(target=_warm_up, name="musicapi-warm-up", daemon=True).start()

User = Annotated[BaseUser, Depends(get_user)]


@app.get("/{script}.js")
def page_script(script: str) -> Response:
    """Serve the page's scripts; the browser asks each time, since they may be another version's."""
    file = SCRIPTS.get(f"{script}.js")
    if file is None:
        raise HTTPException(404)
    return FileResponse(file, media_type="text/javascript", headers=SAFE)


@app.get("/tracks")
def tracks(
    user: User,
    filters: Annotated[Filters, Depends()],
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    offset: Annotated[int, Query(ge=0)] = 0,
) -> Response:
    """List the tracks that the user may see."""
    reader = Reader(user)
    readable = {
        uri: ids
        for uri, dag_ids in destinations().items()
        if (ids := {dag_id for dag_id in dag_ids if reader.may_read(dag_id)})
    }
    listed = list_tracks(library, readable, filters, limit=limit, offset=offset)
    return JSONResponse(listed, headers=SAFE)


@app.api_route("/media/{folder_key}/{clip_id}/{kind}", methods=["GET", "HEAD"])
def media(request: Request, user: User, folder_key: str, clip_id: str, kind: str) -> Response:
    """Serve a track's audio file or cover; which file that is says the folder's index, not the request."""
    for anew in (False, True):
        uri, dag_ids = folders.get(folder_key, anew=anew)
        track = library.track(uri, clip_id) if uri and kind in MEDIA else None
        if track is not None and track.dag_id in dag_ids and Reader(user).may_read(track.dag_id):
            return _serve(request, ObjectStoragePath(uri), getattr(track, MEDIA[kind]))
    raise HTTPException(404)


@app.api_route(f"{TASK}/manifest", methods=["GET", "HEAD"])
def manifest(
    request: Request, user: User, dag_id: str, run_id: str, task_id: str, map_index: int = -1
) -> Response:
    """Serve the manifest that a task instance has written."""
    instance = TaskInstanceRef(dag_id, run_id, task_id, map_index)
    found = manifest_of(instance) if Reader(user).may_read(dag_id) else None
    if found is None:
        raise HTTPException(404)
    return _serve(request, *found)


@app.get(f"{TASK}/music_tasks")
def music_tasks(
    user: User,
    dag_id: str,
    run_id: str,
    task_id: str,
    conn_id: str,
    music_task_id: Annotated[list[str], Query()],
    map_index: int = -1,
) -> Response:
    """Ask the API about the music tasks that a task instance links to."""
    instance = TaskInstanceRef(dag_id, run_id, task_id, map_index)
    if not (Reader(user).may_read(dag_id) and is_linked(instance, conn_id, music_task_id)):
        raise HTTPException(404)
    try:
        status, found = 200, look_at(conn_id, music_task_id)
    except MusicAPIError as error:
        status, found = 502, {"error": str(error)}
    # For people: it is what opens when they press the link.
    text = json.dumps(found, indent=2, ensure_ascii=False)
    return Response(text, status, headers=SAFE, media_type="application/json")


@app.get(f"{TASK}/lost_answers")
def lost_answers(user: User, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> Response:
    """Tell what is on record about a task instance's creates whose answers were lost."""
    reader = Reader(user)
    if not reader.may_read(dag_id):
        raise HTTPException(404)
    found = lost_answers_of(TaskInstanceRef(dag_id, run_id, task_id, map_index))
    return JSONResponse({**found, "may_decide": reader.may_clear(dag_id)}, headers=SAFE)


@app.post(f"{TASK}/lost_answers", dependencies=[Depends(action_logging("musicapi_settle"))])
def settle(
    request: Request,
    user: User,
    decided: Decided,
    dag_id: str,
    run_id: str,
    task_id: str,
    map_index: int = -1,
) -> Response:
    """
    Write down what a person has decided about a lost answer; it sends nothing, and clears nothing.

    Only JSON counts: another site cannot make a browser send that here.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "Only application/json is read.")
    reader = Reader(user)
    if not reader.may_read(dag_id):
        raise HTTPException(404)
    if not reader.may_clear(dag_id):
        raise HTTPException(403, f"You may not clear tasks of {dag_id}, so you may not decide for them.")
    try:
        decide(TaskInstanceRef(dag_id, run_id, task_id, map_index), decided)
    except MusicAPIInvalidRequestError as error:
        raise HTTPException(409, str(error)) from error
    except MusicAPIError as error:
        raise HTTPException(502, str(error)) from error
    log.info(
        "%s has decided about %s of %s, %s, %s: %s",
        user.get_name(),
        decided.order,
        *(dag_id, run_id, task_id),
        decided,
    )
    return JSONResponse({"order": decided.order}, headers=SAFE)


@app.api_route("/{path:path}", methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def nothing(path: str) -> Response:
    """Ask for a login also where nothing is."""
    raise HTTPException(404)


def _serve(request: Request, folder: ObjectStoragePath, name: str) -> Response:
    try:
        return file_response(request, stored_file(folder, name), name)
    except FileNotFoundError:
        raise HTTPException(404) from None
    except Exception as error:
        log.warning("%s cannot be read from %s (%s: %s)", name, folder, type(error).__name__, error)
        raise HTTPException(502, "The storage does not answer; the API server's log says more.") from error
