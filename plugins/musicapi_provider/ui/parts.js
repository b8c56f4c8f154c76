/**
 * What both pages of this plugin use: addresses, words, and errors.
 */
const { createElement: h } = globalThis.React;

// -- addresses and words ------------------------------------------------------------------------------------

/** Resolve an address below Airflow's base URL; `null` for none, and for one that leads to another server. */
function ownAddress(relative) {
  if (!relative) return null;
  const url = new URL(relative, document.baseURI);
  return url.origin === globalThis.location.origin ? url.href : null;
}

/** The router puts Airflow's base URL before it, and follows without loading the UI anew. */
const pathOf = (...parts) => `/${parts.map(encodeURIComponent).join("/")}`;

const number = (value) => value.toLocaleString("en");
const counted = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;

/** In the time zone that is chosen in the UI, and in the UI's format, which happens to be the Swedish one. */
function localTime(iso) {
  try {
    const timeZone = JSON.parse(localStorage.getItem("timezone")) ?? undefined;
    const format = new Intl.DateTimeFormat("sv", { dateStyle: "short", timeStyle: "medium", timeZone });
    return format.format(new Date(iso));
  } catch {
    return iso;
  }
}

/** The error of an answer that is none, in the server's words. */
async function errorOf(response) {
  const { detail } = await response.json().catch(() => ({}));
  const why = typeof detail === "string" ? detail : "The API server's log says why.";
  return Object.assign(new Error(`Airflow answered ${response.status}. ${why}`), {
    status: response.status,
    detail: why,
  });
}

/** An error, with what helps: a login, or another try. */
function Trouble({ error, what, retry }) {
  const next = globalThis.location.pathname + globalThis.location.search;
  const login = ownAddress(`api/v2/auth/login?${new URLSearchParams({ next })}`);
  const [text, action] =
    error.status === 401
      ? ["Your login has ended.", h("a", { href: login }, "Log in again")]
      : [`The ${what} could not be loaded. ${error.message}`, h("button", { onClick: retry }, "Try again")];
  return h("div", { className: "notice trouble", role: "alert" }, text, action);
}

export { Trouble, counted, errorOf, localTime, number, ownAddress, pathOf };
