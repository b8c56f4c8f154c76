"""
Airflow's UI, as a person uses it in one tab.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from playwright.sync_api import expect

from tests.browser.chromium import PATIENCE_MS

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

#: Milliseconds for a run; those of these tests take ten to twenty seconds.
RUN_PATIENCE_MS = 120_000


class UI:
    """
    One tab.

    :param page: Playwright's page; its base URL is Airflow's.
    """

    def __init__(self, page: Page) -> None:
        self.page = page

    def log_in(self, user: str, password: str) -> None:
        """Fill in the login form that Airflow shows, and wait for the home page."""
        self.page.goto("/")
        self.page.locator("input[name=username]").fill(user)
        self.page.locator("input[name=password]").fill(password)
        self.page.locator("button[type=submit]").click()
        self.page.get_by_test_id("nav-home-link").wait_for()

    def toast(self) -> str:
        """Return title and text of the message that has popped up last."""
        toast = self.page.locator("[data-scope=toast][data-part=root]").last
        toast.wait_for()
        return toast.inner_text()

    # -- connections -----------------------------------------------------------------------------------------

    def open_new_connection(self, conn_id: str) -> ConnectionForm:
        """Open Admin > Connections > Add Connection and choose our type."""
        self.page.goto("/connections")
        self.page.get_by_role("button", name="Add Connection").click()
        form = ConnectionForm(self.page.get_by_role("dialog"))
        form.field("connection_id").fill(conn_id)
        form.dialog.get_by_role("combobox").fill("MusicAPI")
        form.dialog.get_by_role("combobox").press("Enter")
        form.field("password").wait_for()
        return form

    def open_connection(self, conn_id: str) -> ConnectionForm:
        """Open a connection's form from the list."""
        self._row(conn_id).get_by_role("button", name="Edit Connection").click()
        form = ConnectionForm(self.page.get_by_role("dialog"))
        form.field("password").wait_for()
        return form

    def test_connection(self, conn_id: str) -> str:
        """Press Test beside a connection and return what pops up."""
        self._row(conn_id).get_by_role("button", name="Test Connection").click()
        return self.toast()

    def _row(self, conn_id: str) -> Locator:
        if not self.page.url.endswith("/connections"):
            self.page.goto("/connections")
        return self.page.get_by_role("row").filter(has=self.page.get_by_text(conn_id, exact=True))

    # -- runs ------------------------------------------------------------------------------------------------

    def open_trigger_form(self, dag_id: str) -> TriggerForm:
        """Press Trigger on a DAG's page."""
        self.page.goto(f"/dags/{dag_id}")
        self.page.get_by_test_id("trigger-dag-button").click()
        form = TriggerForm(self.page.get_by_role("dialog"))
        form.submit.wait_for()
        return form

    def open_run(self, dag_id: str, run_id: str) -> None:
        """Open a run's page."""
        self.page.goto(f"/dags/{dag_id}/runs/{quote(run_id, safe='')}")

    def wait_for_run(self, dag_id: str, run_id: str, state: str = "Success") -> None:
        """Watch a run's page until its badge says that it is over, and how."""
        self.open_run(dag_id, run_id)
        badge = self.page.get_by_test_id("header-card").get_by_test_id("state-badge")
        expect(badge).to_have_text(re.compile("Success|Failed"), timeout=RUN_PATIENCE_MS)
        expect(badge).to_have_text(state)

    def wait_for_task(self, dag_id: str, run_id: str, task_id: str, state: str) -> None:
        """Watch a task instance's page until its badge says this."""
        self.open_task(dag_id, run_id, task_id)
        badge = self.page.get_by_test_id("header-card").get_by_test_id("state-badge")
        expect(badge).to_have_text(state, timeout=RUN_PATIENCE_MS)

    def open_task(
        self, dag_id: str, run_id: str, task_id: str, tab: str = "", *, map_index: int | None = None
    ) -> None:
        """
        Open a task instance's page.

        :param tab: Empty for the log, else ``rendered_templates``, ``xcom``, ``details`` ...
        """
        mapped = "" if map_index is None else f"/mapped/{map_index}"
        self.page.goto(f"/dags/{dag_id}/runs/{quote(run_id, safe='')}/tasks/{task_id}{mapped}/{tab}")
        self.page.get_by_test_id("header-card").wait_for()

    def main_text(self) -> str:
        """Return the text of the page without the navigation."""
        return self.page.get_by_test_id("main-content").inner_text()

    def extra_links(self) -> Mapping[str, str]:
        """Return the buttons under "Extra Links" of the details that are open: name and address."""
        links = self._links()
        links.first.wait_for()
        return {link.inner_text(): link.get_attribute("href") or "" for link in links.all()}

    def open_extra_link(self, name: str) -> Page:
        """Press such a button and return the tab in which its page opens."""
        link = self._links().filter(has_text=re.compile(f"^{name}$"))
        if link.get_attribute("target") != "_blank":
            link.click()
            return self.page
        with self.page.expect_popup() as popup:
            link.click()
        return popup.value

    def _links(self) -> Locator:
        heading = self.page.get_by_role("heading", name="Extra Links", exact=True)
        return heading.locator("xpath=..").get_by_role("link")

    # -- the tracks page -------------------------------------------------------------------------------------

    def open_tracks(self, **filters: str) -> None:
        """Open the tracks page, showing some tracks only, and wait for what it says."""
        self.page.goto(f"/plugin/musicapi-tracks?{urlencode(filters)}")
        self.page.locator("audio").or_(self.page.get_by_text(re.compile("^No track"))).first.wait_for()

    def tracks(self) -> Locator:
        """Return the tracks that are shown."""
        return self.page.get_by_role("listitem").filter(has=self.page.locator("audio"))

    def wait_for_covers(self) -> None:
        """Wait until the covers in sight are drawn; those below are loaded when somebody scrolls there."""
        self.until(
            self.page.locator("body"),
            "body => [...body.querySelectorAll('li img')]"
            ".every(img => img.naturalWidth > 0 || img.getBoundingClientRect().top > innerHeight)",
        )

    def until(self, element: Locator, condition: str) -> None:
        """Wait until a JavaScript function of an element is true, also where the page may run no scripts."""
        deadline = time.monotonic() + PATIENCE_MS / 1000
        while not element.evaluate(condition):
            assert time.monotonic() < deadline, f"never: {condition}"
            element.page.wait_for_timeout(50)

    # -- people who choose -----------------------------------------------------------------------------------

    def open_required_action(self, subject: str) -> None:
        """Open a question from the list of required actions."""
        self.page.goto("/required_actions")
        self.page.get_by_role("link", name=subject).click()
        self.page.locator("[data-testid^=hitl-option-]").first.wait_for()

    def answer(self, option: str) -> None:
        """Press a button below a question, and wait until the answer has arrived."""
        with self.page.expect_response(lambda answer: answer.request.method == "PATCH") as answer:
            self.page.get_by_test_id(f"hitl-option-{option}").click()
        assert answer.value.ok, answer.value.text()


class ConnectionForm:
    """The dialog that makes or changes a connection."""

    def __init__(self, dialog: Locator) -> None:
        self.dialog = dialog

    def field(self, name: str) -> Locator:
        """Return a field by its name; ours have ``element_`` before it."""
        return self.dialog.locator(f"[name={name}]")

    def open_section(self, name: str) -> None:
        """Unfold a section, which folds the others."""
        self.dialog.get_by_role("button", name=name, exact=True).click()

    def labels(self) -> Locator:
        """Return the labels of the section that is open."""
        labels = self.dialog.locator("[data-part=item][data-state=open] label")
        return labels.filter(has_text=re.compile(r"\S"), visible=True)

    def save(self) -> None:
        """Press Save and wait until the dialog is gone."""
        self.dialog.get_by_role("button", name="Save").click()
        self.dialog.wait_for(state="hidden")


class TriggerForm:
    """The dialog that starts a run."""

    def __init__(self, dialog: Locator) -> None:
        self.dialog = dialog
        self.submit = dialog.get_by_test_id("trigger-dag-submit")

    def field(self, param: str) -> Locator:
        """Return a param's field."""
        return self.dialog.locator(f"[name=element_{param}]")

    def open_section(self, name: str) -> None:
        """Unfold a section, which folds the others."""
        self.dialog.get_by_role("button", name=name, exact=True).click()

    def fill(self, **values: str) -> None:
        """Write into text and number fields."""
        for param, value in values.items():
            self.field(param).fill(value)

    def choose(self, param: str, option: str) -> None:
        """Choose from a param's list by the beginning of what it shows; the field itself is hidden."""
        box = self.dialog.locator(f"#element_{param}")
        box.get_by_role("combobox").fill(option)
        box.get_by_role("option").filter(has_text=re.compile(f"^{re.escape(option)}")).click()

    def trigger(self) -> str:
        """Press Trigger and return the run's id."""
        page = self.dialog.page
        with page.expect_response(lambda answer: answer.url.endswith("/dagRuns")) as answer:
            self.submit.click()
        self.dialog.wait_for(state="hidden")
        return str(answer.value.json()["dag_run_id"])
