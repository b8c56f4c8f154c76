/**
 * The page on which a person decides about a task's lost answers: what is known of each, and two ways on.
 *
 * The decision goes to this plugin's app; then Airflow's own API clears the task, with its own rights.
 */
import { Trouble, counted, errorOf, localTime, ownAddress, pathOf } from "./parts.js";

const { createElement: h, useCallback, useEffect, useState } = globalThis.React;
const { Link } = globalThis.ReactRouterDOM;

const credits = (amount) => (amount == null ? "unknown" : counted(amount, "credit"));

async function ask(address, body) {
  const sent = body && {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  };
  const response = await fetch(ownAddress(address), { credentials: "same-origin", ...sent });
  if (!response.ok) throw await errorOf(response);
  return response.json();
}

function addressOf({ dag_id: dag, run_id: run, task_id: task, map_index: index }) {
  const path = pathOf("dags", dag, "runs", run, "tasks", task, "lost_answers");
  return `musicapi${path}?${new URLSearchParams({ map_index: index ?? -1 })}`;
}

/** Clear the task and what comes after it, as the UI's own button does: a manifest must be written anew. */
function clear({ dag_id: dag, run_id: run, task_id: task, map_index: index }) {
  const number = Number(index ?? -1);
  return ask(`api/v2${pathOf("dags", dag, "clearTaskInstances")}`, {
    dry_run: false,
    dag_run_id: run,
    task_ids: [number < 0 ? task : [task, number]],
    include_downstream: true,
    only_failed: false,
    prevent_running_task: true,
    reset_dag_runs: true,
  });
}

function TaskLink({ place: { dag_id: dag, run_id: run, task_id: task, map_index: index } }) {
  const mapped = Number(index ?? -1) < 0 ? [] : ["mapped", index];
  const to = pathOf("dags", dag, "runs", run, "tasks", task, ...mapped);
  return h(Link, { to }, [task, ...mapped.slice(1).map((one) => `[${one}]`)].join(""));
}

function Evidence({ lost }) {
  const facts = [
    ["Sent at", localTime(lost.at)],
    ["Price", `about ${credits(lost.price)}`],
    ["Balance just before", credits(lost.balance)],
    ["Prompt id", lost.prompt_id],
    ["Other lost answers", lost.lost_at.map(localTime).join(", ")],
    ["Earlier music tasks", lost.earlier.join(", ")],
    ["On record as", h("code", null, lost.order)],
  ];
  const known = facts.filter(([, value]) => value);
  const rows = known.flatMap(([name, value]) => [
    h("dt", { key: name }, name),
    h("dd", { key: `${name}:` }, value),
  ]);
  return h("dl", null, rows);
}

function Adopt({ decide, busy }) {
  const [id, setId] = useState("");
  const submit = (event) => {
    event.preventDefault();
    decide({ adopt: id.trim() });
  };
  const label = "Id of the music task";
  const onChange = (event) => setId(event.target.value);
  const input = { value: id, placeholder: label, "aria-label": label, onChange };
  return h(
    "form",
    { onSubmit: submit },
    h("h2", null, "It was booked"),
    h("p", { className: "muted" }, "The account's history has it: the task collects it, and pays nothing (unless it has force_new=True)."),
    h(
      "div",
      { className: "row" },
      h("input", input),
      h("button", { disabled: busy || !id.trim() }, "Adopt it and clear the task"),
    ),
  );
}

function Resubmit({ decide, busy, decided }) {
  const [sure, setSure] = useState(false);
  const submit = (event) => {
    event.preventDefault();
    decide({ resubmit: true });
  };
  const box = { type: "checkbox", checked: sure, onChange: (event) => setSure(event.target.checked) };
  return h(
    "form",
    { onSubmit: submit },
    h("h2", null, "It was not booked"),
    decided && h("p", { className: "muted" }, "It is decided: the task's next try sends it again, once."),
    h("label", null, h("input", box), "The account's history does not have it. If it has, this pays twice."),
    h("button", { disabled: busy || !sure }, "Send it again and clear the task"),
  );
}

function Lost({ lost, mayDecide, decide, busy }) {
  return h(
    "section",
    { className: "lost" },
    h("h2", null, lost.ordered || "Untitled"),
    h(Evidence, { lost }),
    h(
      "p",
      null,
      "The create was sent, or about to be, and its answer was lost: nobody here knows whether it was paid. ",
      "A balance that fell by the price since means that it was, if nothing else was paid meanwhile.",
    ),
    mayDecide && h(Adopt, { decide, busy }),
    mayDecide && h(Resubmit, { decide, busy, decided: lost.state !== "unknown outcome" }),
  );
}

/** Return what is known of a task's lost answers, a function that decides, and what came of that. */
function useLostAnswers(place) {
  const address = addressOf(place);
  const [found, setFound] = useState(null);
  const [error, setError] = useState(null);
  const [outcome, setOutcome] = useState(null);
  const [busy, setBusy] = useState(false);
  const load = useCallback(async () => {
    setError(null);
    try {
      setFound(await ask(address));
    } catch (trouble) {
      setError(trouble);
    }
  }, [address]);
  useEffect(() => {
    load();
  }, [load]);
  const decide = async (decision) => {
    setBusy(true);
    setOutcome(null);
    setOutcome(await outcomeOf(address, decision, place));
    await load();
    setBusy(false);
  };
  return { found, error, outcome, busy, load, decide };
}

/** Write a decision down and clear the task. */
async function outcomeOf(address, decision, place) {
  try {
    await ask(address, decision);
  } catch (trouble) {
    return { refused: true, text: trouble.detail ?? trouble.message };
  }
  try {
    await clear(place);
    return { text: "Decided, and the task is cleared, with what comes after it: " };
  } catch (trouble) {
    return { text: `Decided. The task is not cleared: ${trouble.message} Clear it on its page: ` };
  }
}

function Outcome({ outcome: { refused, text }, place }) {
  if (refused) return h("p", { className: "notice trouble", role: "alert" }, text);
  return h("p", { className: "notice done", role: "status" }, text, h(TaskLink, { place }));
}

/** Say why nothing can be decided here, and where it can. */
function Hints({ found: { lost, problem, command, may_decide: mayDecide }, isDecided }) {
  if (problem) return h("p", { className: "notice", role: "alert" }, problem);
  const notice = (text) => h("p", { className: "notice", role: "status" }, text);
  if (!lost.length) return !isDecided && notice("No answer is lost: nothing is to be decided here.");
  const words = `${command} ORDER (--adopt MUSIC_TASK_ID | --resubmit)`;
  return [
    !mayDecide && notice("You may not clear this DAG's tasks, so you may not decide for them."),
    h("p", { key: "command", className: "muted" }, "The same on the command line: ", h("code", null, words)),
  ];
}

/**
 * @param place dag_id, run_id, task_id, map_index
 */
function LostAnswers({ place }) {
  const { found, error, outcome, busy, load, decide } = useLostAnswers(place);
  const run = ` of ${place.dag_id}, ${place.run_id}`;
  const where = h("p", { className: "muted" }, h(TaskLink, { place }), run);
  const cards = found?.lost.map((lost) =>
    h(Lost, {
      key: lost.order,
      lost,
      busy,
      mayDecide: found.may_decide,
      decide: (decision) => decide({ order: lost.order, ...decision }),
    }),
  );
  return h(
    "div",
    null,
    h("header", null, h("h1", null, "Lost answers"), where),
    outcome && h(Outcome, { outcome, place }),
    error && h(Trouble, { error, what: "purchases", retry: load }),
    cards,
    found && h(Hints, { found, isDecided: Boolean(outcome) }),
  );
}

export { LostAnswers };
