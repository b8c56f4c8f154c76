/**
 * The tracks page: what the DAGs of this Airflow have stored, to read about and to listen to.
 *
 * No build step: Airflow's UI imports this file and renders the component at its end. React and the router
 * are the UI's own, as in Airflow's providers, and so are all colours: light and dark need nothing here.
 * Whatever comes from a track becomes a text node, and only an address on this server becomes a link.
 */
import { LostAnswers } from "./lost_answers.js";
import { Trouble, counted, errorOf, localTime, number, ownAddress, pathOf } from "./parts.js";

const { createElement: h, useCallback, useEffect, useRef, useState } = globalThis.React;
const { Link, useSearchParams } = globalThis.ReactRouterDOM;

const PAGE = 50;
const TYPING_MS = 300;
const FILTERS = ["dag_id", "run_id", "text"];
const FIRST_DAG = "musicapi_single_track";
const OTHERS = "Whatever your DAGs store with this provider's operators is here, too.";

const titleOf = (track) => track.title || "Untitled";

function lengthOf(seconds) {
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

// -- what the server knows ----------------------------------------------------------------------------------

async function fetchPage(query, offset, signal) {
  const address = ownAddress(`musicapi/tracks?${query}&limit=${PAGE}&offset=${offset}`);
  const response = await fetch(address, { credentials: "same-origin", signal });
  if (response.ok) return response.json();
  throw await errorOf(response);
}

/** Newer tracks have moved the others down: the first ones of a page may be known already. */
function joined(tracks, page) {
  const known = new Set(tracks.map((track) => track.audio));
  return [...tracks, ...page.filter((track) => !known.has(track.audio))];
}

const FIRST = { loading: true, error: null, tracks: [], next: 0, total: 0, dagIds: [], unread: 0, older: 0 };

/** Return what is known of the tracks that pass the filters, and a function that loads from an offset on. */
function useTracks(query) {
  const [found, setFound] = useState(FIRST);
  const request = useRef(null);
  const load = useCallback(
    async (offset) => {
      request.current?.abort(); // an answer to earlier filters must not come after this one's
      const { signal } = (request.current = new AbortController());
      setFound((before) => ({ ...before, loading: true, error: null, next: offset }));
      try {
        const page = await fetchPage(query, offset, signal);
        setFound((before) => ({
          loading: false,
          error: null,
          tracks: joined(offset ? before.tracks : [], page.tracks),
          next: offset + page.tracks.length,
          total: page.total_entries,
          dagIds: page.dag_ids,
          unread: page.unread_folders,
          older: page.older_folders,
        }));
      } catch (error) {
        if (signal.aborted) return;
        setFound((before) => ({ ...before, loading: false, error, tracks: offset ? before.tracks : [] }));
      }
    },
    [query],
  );
  useEffect(() => {
    load(0);
    return () => request.current?.abort();
  }, [load]);
  return [found, load];
}

/** Return the filters that the page's address holds, and a function that changes some of them there. */
function useFilters() {
  const [params, setParams] = useSearchParams();
  const filters = Object.fromEntries(FILTERS.map((name) => [name, params.get(name) ?? ""]));
  const change = (changes) => {
    const after = new URLSearchParams(params);
    for (const [name, value] of Object.entries(changes)) {
      if (value) after.set(name, value);
      else after.delete(name);
    }
    setParams(after, { replace: true }); // Back leads to the page before, not to half a word
  };
  return [filters, change];
}

// -- one track ----------------------------------------------------------------------------------------------

const NOTES = "M9 18V5l12-2v13M9 18a3 3 0 1 1-6 0 3 3 0 0 1 6 0zM21 16a3 3 0 1 1-6 0 3 3 0 0 1 6 0z";

function Notes() {
  const svg = { viewBox: "0 0 24 24", width: 32, height: 32, "aria-hidden": true };
  return h("svg", svg, h("path", { d: NOTES }));
}

function Cover({ track }) {
  const [broken, setBroken] = useState(false);
  const src = ownAddress(track.cover);
  if (!src || broken) return h("div", { className: "cover" }, h(Notes));
  const alt = `Cover of ${titleOf(track)}`;
  return h("img", { className: "cover", src, alt, loading: "lazy", onError: () => setBroken(true) });
}

function Title({ track }) {
  const { picked_by: person, prompt_id: id } = track;
  return h(
    "div",
    { className: "title" },
    h("h2", null, titleOf(track)),
    person && h("span", { className: "badge picked" }, `picked by ${person}`),
    id && h("span", { className: "badge" }, `prompt_id ${id}`),
  );
}

function Facts({ track: { duration, credits, stored_at: iso } }) {
  // They are the music task's, so each of its takes shows the same number.
  const cost = credits != null && `${counted(credits, "credit")} for all takes · `;
  const length = duration != null && `${lengthOf(duration)} · `;
  return h("p", { className: "muted" }, length, cost, h("time", { dateTime: iso }, localTime(iso)));
}

/** Two lines of a prompt, and all of it on demand: lyrics have fifty. */
function Prompt({ text }) {
  const words = useRef(null);
  const [isOpen, setOpen] = useState(false);
  const [isCut, setCut] = useState(false);
  useEffect(() => {
    const { current } = words;
    const observer = new ResizeObserver(() => setCut(current.scrollHeight > current.clientHeight + 1));
    observer.observe(current);
    return () => observer.disconnect();
  }, []);
  const toggle = { type: "button", className: "text", onClick: () => setOpen(!isOpen) };
  return h(
    "div",
    null,
    h("p", { className: isOpen ? "prompt open" : "prompt", ref: words }, text),
    (isCut || isOpen) &&
      h("button", { ...toggle, "aria-expanded": isOpen }, isOpen ? "Show less" : "Show all"),
  );
}

function Origin({ track: { dag_id: dagId, run_id: runId } }) {
  const link = (text, ...path) => text && h(Link, { to: pathOf(...path), title: text }, text);
  const run = link(runId, "dags", dagId, "runs", runId);
  return h("p", { className: "origin" }, link(dagId, "dags", dagId), run);
}

let playing = null;

function pauseOthers({ currentTarget }) {
  if (playing !== currentTarget) playing?.pause();
  playing = currentTarget;
}

function Player({ track }) {
  const [failed, setFailed] = useState(false);
  const audio = h("audio", {
    src: ownAddress(track.audio),
    controls: true,
    preload: "none",
    "aria-label": `Play ${titleOf(track)}`,
    onPlay: pauseOthers,
    onPlaying: () => setFailed(false),
    onError: () => setFailed(true),
  });
  const message = "This file cannot be played: it is not where the DAG has stored it, or it is damaged.";
  return h("div", { className: "player" }, audio, failed && h("p", { role: "alert" }, message));
}

function Track({ track }) {
  const { title, prompt } = track;
  return h(
    "li",
    { className: "track" },
    h(Cover, { track }),
    h(
      "div",
      { className: "words" },
      h(Title, { track }),
      h(Facts, { track }),
      prompt && prompt !== title && h(Prompt, { text: prompt }),
      h(Origin, { track }),
    ),
    h(Player, { track }),
  );
}

// -- around the tracks --------------------------------------------------------------------------------------

function Search({ text, onSearch }) {
  const [typed, setTyped] = useState(text);
  const sent = useRef(text);
  useEffect(() => {
    if (text !== sent.current) setTyped(text); // the address has changed without us: Back, or a link
    sent.current = text;
  }, [text]);
  useEffect(() => {
    const wanted = typed.trim();
    if (wanted === sent.current) return undefined;
    const timer = setTimeout(() => {
      sent.current = wanted;
      onSearch(wanted);
    }, TYPING_MS);
    return () => clearTimeout(timer);
  }); // at each rendering, lest it changes filters that are old by then
  const label = "Search in titles, prompts and prompt ids";
  const onChange = (event) => setTyped(event.target.value);
  return h("input", { type: "search", placeholder: label, "aria-label": label, value: typed, onChange });
}

function DagChoice({ dagId, dagIds, onChoose }) {
  const ids = !dagId || dagIds.includes(dagId) ? dagIds : [dagId, ...dagIds];
  const options = ids.map((id) => h("option", { key: id, value: id }, id));
  const select = { value: dagId, onChange: (event) => onChoose(event.target.value), "aria-label": "DAG" };
  return h("select", select, h("option", { value: "" }, "All DAGs"), options);
}

function Filters({ filters, change, dagIds }) {
  const { dag_id: dagId, run_id: runId, text } = filters;
  const chip = { type: "button", className: "chip", onClick: () => change({ run_id: "" }) };
  const remove = { title: runId, "aria-label": `Remove filter: run ${runId}` };
  return h(
    "div",
    { className: "filters", role: "search" },
    h(Search, { text, onSearch: (wanted) => change({ text: wanted }) }),
    h(DagChoice, { dagId, dagIds, onChoose: (id) => change({ dag_id: id, run_id: "" }) }),
    runId && h("button", { ...chip, ...remove }, h("span", null, `Run ${runId}`), "✕"),
  );
}

/** Say which tracks are missing here. */
function Missing({ unread, older }) {
  const texts = [
    unread > 0 && `${counted(unread, "folder")} could not be read; the API server's log says why.`,
    older > 0 && `${counted(older, "folder")} with older tracks left out; choose a DAG to see its own.`,
  ];
  return texts.map((text) => text && h("p", { key: text, className: "notice", role: "status" }, text));
}

function NoTracks({ isFiltered, clear }) {
  const button = h("button", { type: "button", className: "text", onClick: clear }, "Clear the filters");
  const link = h(Link, { to: pathOf("dags", FIRST_DAG) }, FIRST_DAG);
  const [heading, ...words] = isFiltered
    ? ["No track passes these filters", "A track is here as soon as its run has stored it. ", button]
    : ["No tracks yet", "To make the first one, open the example DAG ", link, " and press Trigger. ", OTHERS];
  return h("div", { className: "empty" }, h(Notes), h("h2", null, heading), h("p", null, ...words));
}

function countOf({ loading, tracks, total }) {
  if (!tracks.length) return loading ? "Loading…" : "";
  const all = counted(total, "track");
  return tracks.length < total ? `${number(tracks.length)} of ${all}` : all;
}

function More({ found: { loading, error, next, tracks, total }, load }) {
  if (error || !tracks.length || (next >= total && !loading)) return null;
  const button = { type: "button", className: "more", disabled: loading, onClick: () => load(next) };
  return h("button", button, loading ? "Loading…" : "Load more");
}

function TracksPage() {
  const [filters, change] = useFilters();
  const query = new URLSearchParams(Object.entries(filters).filter(([, value]) => value)).toString();
  const [found, load] = useTracks(query);
  const { loading, error, tracks, dagIds, unread, older, next } = found;
  const isEmpty = !loading && !error && !tracks.length && !(unread && !query);
  const clear = () => change({ dag_id: "", run_id: "", text: "" });
  const status = { className: "muted", role: "status" };
  return h(
    "div",
    { className: "musicapi-tracks" },
    h("style", null, STYLE),
    h("header", null, h("h1", null, "MusicAPI Tracks"), h("p", status, countOf(found))),
    (query || !isEmpty) && h(Filters, { filters, change, dagIds }),
    h(Missing, { unread, older }),
    isEmpty && h(NoTracks, { isFiltered: query !== "", clear }),
    h("ul", { "aria-busy": loading }, tracks.map((track) => h(Track, { key: track.audio, track }))),
    error && h(Trouble, { error, what: "tracks", retry: () => load(next) }),
    h(More, { found, load }),
  );
}

const STYLE = `
.musicapi-tracks {
  --line: 1px solid var(--chakra-colors-border-emphasized);
  padding: 16px 20px 40px; color: var(--chakra-colors-fg); font-size: 14px; line-height: 1.45;

  header { display: flex; align-items: baseline; gap: 12px; margin-bottom: 12px; }
  h1 { font-size: 20px; font-weight: 600; }
  h2 { font-size: 16px; font-weight: 600; overflow-wrap: anywhere; }
  .muted { color: var(--chakra-colors-fg-muted); font-size: 13px; }
  a, .text { color: var(--chakra-colors-fg-info); font-size: 13px; cursor: pointer; }
  a:hover, .text:hover { text-decoration: underline; }
  :is(a, button, input, select):focus-visible { outline: 2px solid var(--chakra-colors-brand-focus-ring); }

  .filters { display: flex; flex-wrap: wrap; gap: 8px; margin-bottom: 16px; }
  :is(input, select, .chip, .more, .trouble button) {
    height: 36px; padding: 0 12px; border: var(--line); border-radius: 6px; background: transparent;
  }
  :is(.chip, .more, .trouble button) { color: var(--chakra-colors-fg); cursor: pointer; }
  :is(.chip, .more, .trouble button):hover { background: var(--chakra-colors-bg-emphasized); }
  input { flex: 1 1 320px; max-width: 640px; }
  input::placeholder { color: var(--chakra-colors-fg-subtle); }
  select { max-width: 320px; }
  option { background: var(--chakra-colors-bg-panel); }
  .chip { display: flex; align-items: center; gap: 8px; max-width: 420px; }
  .chip span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
  .more { display: block; margin: 20px auto 0; }

  .notice { margin-bottom: 16px; padding: 8px 12px; border-radius: 6px; }
  .notice { background: var(--chakra-colors-bg-warning); color: var(--chakra-colors-fg-warning); }
  .trouble { display: flex; align-items: center; gap: 12px; margin-top: 16px; }
  .trouble { background: var(--chakra-colors-bg-error); color: var(--chakra-colors-fg-error); }
  .empty { padding: 64px 16px; text-align: center; }
  .empty { border: var(--line); border-style: dashed; border-radius: 8px; }
  .empty svg { margin: 0 auto 8px; }
  .empty p { margin-top: 4px; color: var(--chakra-colors-fg-muted); }

  ul { display: grid; gap: 12px; list-style: none; }
  ul { grid-template-columns: repeat(auto-fill, minmax(min(100%, 500px), 1fr)); }
  ul[aria-busy=true] { opacity: 0.6; }
  .track { display: grid; gap: 12px 16px; padding: 14px; border: var(--line); border-radius: 8px; }
  .track { grid-template: "cover words" 1fr "player player" auto / 104px minmax(0, 1fr); }
  .cover { width: 104px; height: 104px; border-radius: 6px; object-fit: cover; }
  .cover { background: var(--chakra-colors-bg-emphasized); }
  div.cover { display: grid; place-items: center; }
  svg { color: var(--chakra-colors-fg-subtle); fill: none; stroke: currentColor; stroke-width: 1.5; }
  .words { display: flex; flex-direction: column; gap: 4px; }
  .title { display: flex; flex-wrap: wrap; align-items: baseline; gap: 0 8px; }
  .badge { padding: 0 8px; border-radius: 10px; font-size: 12px; line-height: 20px; overflow-wrap: anywhere; }
  .badge { background: var(--chakra-colors-gray-muted); color: var(--chakra-colors-gray-fg); }
  .picked { background: var(--chakra-colors-green-muted); color: var(--chakra-colors-green-fg); }
  .prompt { white-space: pre-line; overflow-wrap: anywhere; }
  .prompt:not(.open) { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 2; }
  .prompt:not(.open) { overflow: hidden; }
  .origin { display: flex; gap: 12px; }
  .origin a { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
  .origin a:first-child { flex-shrink: 0; max-width: 50%; }
  .player { grid-area: player; }
  .player p { color: var(--chakra-colors-fg-error); font-size: 13px; }
  audio { width: 100%; height: 40px; }

  .lost { max-width: 760px; margin-bottom: 16px; padding: 16px; border: var(--line); border-radius: 8px; }
  .lost dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 16px; margin: 8px 0 16px; }
  .lost dt { color: var(--chakra-colors-fg-muted); }
  .lost dd, code { overflow-wrap: anywhere; }
  .lost form { padding-top: 12px; margin-top: 12px; border-top: var(--line); }
  .lost form > * { margin-top: 8px; }
  .lost .row { display: flex; flex-wrap: wrap; gap: 8px; }
  .lost label { display: flex; align-items: center; gap: 8px; }
  .lost input[type=checkbox] { flex: none; height: 16px; }
  .lost button { height: 36px; padding: 0 12px; border: var(--line); border-radius: 6px; cursor: pointer; }
  .lost button:hover:enabled { background: var(--chakra-colors-bg-emphasized); }
  .lost button:disabled { cursor: default; opacity: 0.5; }
  code { font-family: var(--chakra-fonts-mono, monospace); font-size: 12px; }
  .done { background: var(--chakra-colors-bg-success); color: var(--chakra-colors-fg-success); }
}
`;

/** One task's lost answers, where the address names a task; else the tracks. */
function Page() {
  const [params] = useSearchParams();
  const names = ["dag_id", "run_id", "task_id", "map_index"];
  const place = Object.fromEntries(names.map((name) => [name, params.get(name)]));
  if (!place.task_id) return h(TracksPage);
  return h("div", { className: "musicapi-tracks" }, h("style", null, STYLE), h(LostAnswers, { place }));
}

// Airflow looks for the plugin's name first, then for this other one.
globalThis["MusicAPI Tracks"] = globalThis.AirflowPlugin = Page;
