"""What Airflow's REST API, and hence its trigger form, makes of the examples' params: a run, or a refusal."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import PROJECT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow.dag_processing.dagbag import DagBag
    from httpx import Response
    from starlette.testclient import TestClient

pytestmark = pytest.mark.dags

EXAMPLES = sorted(path.stem for path in (PROJECT / "dags").glob("*.py"))
SINGLE, CHOOSE = "musicapi_single_track", "musicapi_choose_take"


@pytest.fixture(scope="module")
def api(dag_bag: DagBag) -> Iterator[TestClient]:
    """Serve Airflow's REST API to somebody who may do everything; it knows the examples."""
    from airflow.api_fastapi.app import create_app, get_auth_manager, purge_cached_app
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import sync_bag_to_db
    from starlette.testclient import TestClient

    DagBundlesManager().sync_bundles_to_db()
    sync_bag_to_db(dag_bag, "dags", None)
    app = create_app(apps="core")
    token = get_auth_manager().generate_jwt(SimpleAuthManagerUser(username="ada", role="admin"))
    with TestClient(app, headers={"Authorization": f"Bearer {token}"}) as client:
        yield client
    purge_cached_app()


@pytest.fixture
def form_of(api: TestClient) -> Callable[[str], dict[str, dict[str, Any]]]:
    """Return a function that reads what the UI makes a DAG's form of: params with value and schema."""

    def read(dag_id: str) -> dict[str, dict[str, Any]]:
        return api.get(f"/api/v2/dags/{dag_id}/details").json()["params"]

    return read


@pytest.fixture
def submit(
    api: TestClient, form_of: Callable[[str], dict[str, dict[str, Any]]]
) -> Iterator[Callable[..., Response]]:
    """Return a function that submits a form, untouched but for the given fields, as the UI does."""
    runs: list[str] = []

    def press_trigger(dag_id: str, **changed: Any) -> Response:
        conf = {name: param["value"] for name, param in form_of(dag_id).items()} | changed
        place = f"/api/v2/dags/{dag_id}/dagRuns"
        answer = api.post(place, json={"logical_date": None, "conf": conf})
        if answer.is_success:
            runs.append(f"{place}/{answer.json()['dag_run_id']}")
        return answer

    yield press_trigger
    for run in runs:
        api.delete(run).raise_for_status()


@pytest.mark.parametrize("dag_id", EXAMPLES)
def test_an_untouched_form_starts_a_run(submit: Callable[..., Response], dag_id: str) -> None:
    """Every default is valid by its own schema, once it went through the database and JSON."""
    answer = submit(dag_id)

    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("dag_id", "form"),
    [
        pytest.param(
            SINGLE,
            {
                **{"mode": "lyrics", "lyrics": "[Verse]\nLa la", "title": "La", "tags": "folk"},
                **{"negative_tags": "metal", "vocal_gender": "f", "make_instrumental": False},
                **{"mv": "sonic-v4-5-plus", "style_weight": 0, "weirdness_constraint": 0.25},
                "destination": "s3://aws_music@bucket/music",
            },
            id="single track",
        ),
        pytest.param(
            CHOOSE,
            {"description": "A waltz\nfor two", "title": "Two", "tags": "waltz", "other_take": "drop"},
            id="choose take",
        ),
    ],
)
def test_a_form_that_is_filled_in_starts_a_run_with_it(
    submit: Callable[..., Response], dag_id: str, form: dict[str, Any]
) -> None:
    """Text, choices and numbers arrive as they were typed."""
    answer = submit(dag_id, **form)

    assert answer.status_code == 200, answer.text
    assert form.items() <= answer.json()["conf"].items()


@pytest.mark.parametrize("dag_id", [SINGLE, CHOOSE])
@pytest.mark.parametrize("empty", [None, ""], ids=["null", "empty text"])
def test_what_is_optional_may_be_emptied(
    form_of: Callable[[str], dict[str, dict[str, Any]]],
    submit: Callable[..., Response],
    dag_id: str,
    empty: str | None,
) -> None:
    """Whatever an emptied field sends; a choice or a number that is empty is null."""
    schemas = {name: param["schema"] for name, param in form_of(dag_id).items()}
    optional = {
        name: None if "number" in schema["type"] or "enum" in schema else empty
        for name, schema in schemas.items()
        if "null" in schema["type"]
    }

    answer = submit(dag_id, **optional)

    assert answer.status_code == 200, answer.text
    assert {"title", "tags"} <= optional.keys()


@pytest.mark.parametrize(
    ("dag_id", "form", "told"),
    [
        (SINGLE, {"mode": "sing"}, "mode: 'sing' is not one of"),
        (SINGLE, {"mv": "sonic-v99"}, "mv: 'sonic-v99' is not one of"),
        (SINGLE, {"description": ""}, "description: '' should be non-empty"),
        (SINGLE, {"description": None}, "description: None is not of type 'string'"),
        (SINGLE, {"title": "x" * 81}, "title: 'x{81}' is too long"),
        (SINGLE, {"tags": "x" * 1001}, "tags: 'x+' is too long"),
        (SINGLE, {"vocal_gender": "x"}, "vocal_gender: 'x' is not one of"),
        (SINGLE, {"style_weight": 1.01}, "style_weight: 1.01 is greater than the maximum of 1"),
        (SINGLE, {"weirdness_constraint": -0.01}, "weirdness_constraint: -0.01 is less than the minimum"),
        (SINGLE, {"style_weight": "much"}, "style_weight: 'much' is not of type 'null', 'number'"),
        (SINGLE, {"make_instrumental": "no"}, "make_instrumental: 'no' is not of type 'boolean'"),
        (SINGLE, {"destination": ""}, "destination: '' should be non-empty"),
        (CHOOSE, {"title": "x" * 81}, "title: 'x+' is too long"),
        (CHOOSE, {"other_take": "burn"}, "other_take: 'burn' is not one of"),
    ],
)
def test_what_one_field_cannot_be_is_refused_at_submit(
    submit: Callable[..., Response], dag_id: str, form: dict[str, Any], told: str
) -> None:
    """The form's JSON schema knows choices, lengths of lines and bounds of numbers: no run, nothing paid."""
    answer = submit(dag_id, **form)

    assert answer.status_code == 400
    assert re.search(f"Invalid input for param {told}", answer.json()["detail"])
