// The dashboard's script: live updates, keys, values of charts, local times. Everything else works
// without it. It asks for the content of the page that it is on, and puts what changed into place.

const body = document.body;
const main = () => document.getElementById("main");
const lost = document.getElementById("lost");
const help = document.getElementById("help");
const every = 2000;
const soon = 300;
let seen = Date.now();
let waiting = null;
let updates = false;

// --- theme -------------------------------------------------------------------------------------

const root = document.documentElement;
const themes = ["auto", "light", "dark"];
function theme(name) {
  if (name === "auto") delete root.dataset.theme;
  else root.dataset.theme = name;
  const button = document.querySelector("[data-do=theme]");
  button.textContent = `Theme: ${name}`;
}
function stored(key) {
  try { return localStorage.getItem(key); } catch { return null; }
}
function store(key, value) {
  try { localStorage.setItem(key, value); } catch { /* private mode: for this page alone */ }
}
let chosen = stored("brigade-theme");
if (!themes.includes(chosen)) chosen = "auto";
theme(chosen);
document.querySelectorAll("[data-do]").forEach((button) => { button.hidden = false; });

// On a phone the pages are wider than the screen: the current one is in sight.
const here = document.querySelector("nav [aria-current]");
if (here) here.parentElement.scrollLeft = here.offsetLeft - here.parentElement.offsetLeft - 60;

// --- live updates ------------------------------------------------------------------------------

// Makes `old` like `fresh`, in place: what is equal stays untouched, so focus, selection and open
// parts stay too.
function morph(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) {
    old.replaceWith(fresh);
    return;
  }
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) {
      old.data = fresh.data;
      flash(old.parentElement);
    }
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE || old.isEqualNode(fresh)) return;
  if (old.matches("input, textarea, select, [data-place] > output, [data-still]")) return;
  for (const { name } of [...old.attributes]) {
    const keeps = ["hidden", "data-place"].includes(name) || (name === "open" && old.matches("details"));
    if (!fresh.hasAttribute(name) && !keeps) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (name === "class" && old.matches("tr.here")) continue;
    if (name === "hidden" || name === "title") continue;
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  if (old.hasAttribute("data-rows")) rows(old, fresh);
  else children(old, fresh);
}

function children(old, fresh) {
  const olds = [...old.childNodes];
  const news = [...fresh.childNodes];
  news.forEach((node, place) => {
    if (place < olds.length) morph(olds[place], node);
    else old.append(node);
  });
  olds.slice(news.length).forEach((node) => node.remove());
}

// Rows keep their places: those that are there change, those that are gone fade, new ones wait
// behind a button.
function rows(old, fresh) {
  const there = new Map([...old.children].map((row) => [row.dataset.key, row]));
  let added = 0;
  const kept = new Set();
  for (const row of [...fresh.children]) {
    const before = there.get(row.dataset.key);
    if (before) {
      before.classList.remove("gone");
      morph(before, row);
      kept.add(row.dataset.key);
    } else added += 1;
  }
  for (const [key, row] of there) if (!kept.has(key)) row.classList.add("gone");
  offer(old, added, fresh);
}

function offer(list, added, fresh) {
  let button = document.getElementById("fresh");
  if (added === 0) {
    button?.remove();
    return;
  }
  if (!button) {
    button = document.createElement("button");
    button.id = "fresh";
    button.type = "button";
    button.className = "fresh";
    body.append(button);
  }
  button.textContent = `${added} new`;
  button.onclick = () => {
    list.replaceChildren(...fresh.children);
    button.remove();
    select(0);
  };
}

function flash(element) {
  if (!element || element.closest("time, .readout, .numbers, .taken")) return;
  element.classList.remove("changed");
  void element.offsetWidth;
  element.classList.add("changed");
}

// What of the frame changes with the content.
function frame({ title, mood, headline, dead }) {
  document.title = title ?? document.title;
  const brand = document.querySelector(".brand");
  brand.title = headline ?? "";
  brand.querySelector(".dot").className = `dot ${mood}`;
  document.getElementById("dead-count").textContent = dead ?? "";
}

function connected(is) {
  if (is) seen = Date.now();
  body.classList.toggle("lost", !is);
  lost.hidden = is;
  if (!is) {
    const at = new Date(seen).toLocaleTimeString();
    lost.textContent = `Connection lost. What you see is from ${at}; trying again.`;
  }
}

// One at a time; a page that is hidden asks again when it is looked at.
async function update() {
  clearTimeout(waiting);
  if (document.hidden || updates) return;
  updates = true;
  try {
    const stop = AbortSignal.timeout(10000);
    const headers = { "x-brigade-live": "1" };
    const answer = await fetch(location.href, { headers, signal: stop, cache: "no-store" });
    if (answer.status === 401) return location.reload();
    if (answer.status >= 500 && !answer.headers.get("content-type")?.startsWith("text/html")) {
      throw new Error(String(answer.status));
    }
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.getElementById("main");
    if (!fresh) throw new Error("no content");
    local(fresh);
    // What an action did stays until the page is left.
    const notice = main().querySelector(".notice");
    if (notice && !fresh.querySelector(".notice")) fresh.prepend(notice.cloneNode(true));
    morph(main(), fresh);
    frame(fresh.dataset);
    connected(true);
  } catch {
    connected(false);
  } finally {
    updates = false;
  }
  waiting = setTimeout(update, pace());
}
// A page that waits for the broker asks again soon.
function pace() {
  return main().querySelector("[data-soon]") ? soon : every;
}
if (main()?.dataset.live !== "off") {
  document.addEventListener("visibilitychange", update);
  waiting = setTimeout(update, pace());
}

// --- times -------------------------------------------------------------------------------------

// The exact time in the time zone of the browser, with UTC behind it.
function local(part) {
  part.querySelectorAll("time[datetime]").forEach((time) => {
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime())) return;
    const here = at.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
    const exact = time.querySelector(".abs");
    time.title = `${here} (${time.title || exact?.textContent || time.dateTime})`;
    if (exact) exact.textContent = here;
    if (time.hasAttribute("data-here")) time.textContent = here;
  });
}
local(document);

// --- charts ------------------------------------------------------------------------------------

function read(chart, place) {
  const lines = chart.querySelectorAll(".numbers tbody tr");
  if (lines.length === 0) return;
  const at = Math.max(0, Math.min(lines.length - 1, place));
  chart.dataset.place = at;
  const names = [...chart.querySelectorAll(".numbers thead th")].map((cell) => cell.textContent);
  const cells = [...lines[at].children].map((cell) => cell.textContent);
  const when = cells[0] === "now" ? "now" : cells[0] + (cells[0].endsWith("h") ? "" : " min");
  chart.querySelector(".readout").textContent =
    `${when}: ` + cells.slice(1).map((text, index) => `${names[index + 1]} ${text}`).join(", ");
  const cursor = chart.querySelector(".cursor");
  cursor.hidden = false;
  cursor.style.left = `${(at / (lines.length - 1)) * 100}%`;
}
document.addEventListener("pointermove", (event) => {
  const canvas = event.target.closest?.(".canvas");
  if (!canvas) return;
  const chart = canvas.closest(".chart");
  const { left, width } = canvas.getBoundingClientRect();
  const count = chart.querySelectorAll(".numbers tbody tr").length;
  read(chart, Math.round(((event.clientX - left) / width) * (count - 1)));
});

// --- rows --------------------------------------------------------------------------------------

const all = () => [...document.querySelectorAll("[data-rows] > *")];
function select(step) {
  const list = all();
  if (list.length === 0) return;
  const now = list.findIndex((row) => row.classList.contains("here"));
  const next = Math.max(0, Math.min(list.length - 1, now + step));
  list.forEach((row, place) => row.classList.toggle("here", place === next));
  list[next].querySelector("a")?.focus({ preventScroll: true });
  list[next].scrollIntoView({ block: "nearest" });
}
// The control for a key, of the chosen row or of the page.
function act(key) {
  const row = document.querySelector("[data-rows] > .here");
  const found = row?.querySelector(`[data-act=${key}]`)
    ?? document.querySelector(`[data-act=${key}]:not([data-rows] *)`);
  found?.click();
}

// --- keys --------------------------------------------------------------------------------------

let goes = false;
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const { key, target } = event;
  if (key === "Escape") return escape_(target);
  if (target.matches("input, textarea, select")) return;
  const chart = target.closest?.(".chart");
  if (chart && (key === "ArrowLeft" || key === "ArrowRight")) {
    const count = chart.querySelectorAll(".numbers tbody tr").length;
    read(chart, Number(chart.dataset.place ?? count) + (key === "ArrowLeft" ? -1 : 1));
    return event.preventDefault();
  }
  if (goes) {
    goes = false;
    const link = document.querySelector(`[data-go="${CSS.escape(key)}"]`);
    if (link) link.click();
    return;
  }
  const keys = {
    g: () => { goes = true; setTimeout(() => { goes = false; }, 1500); },
    j: () => select(1),
    k: () => select(-1),
    r: () => act("r"),
    x: () => act("x"),
    p: () => act("p"),
    n: () => document.getElementById("fresh")?.click(),
    t: () => document.querySelectorAll(".chart details").forEach((one) => { one.open = !one.open; }),
    u: () => body.classList.toggle("exact"),
    "?": () => help.showModal(),
    "/": () => {
      const field = document.querySelector("input[type=search]");
      field?.focus();
      field?.select();
    },
  };
  if (!keys[key]) return;
  event.preventDefault();
  keys[key]();
});
function escape_(target) {
  if (help.open) return help.close();
  if (target.matches("input, textarea, select")) return target.blur();
  const up = document.querySelector("[data-up]");
  if (up) up.click();
  else if (history.length > 1) history.back();
}

// --- clicks ------------------------------------------------------------------------------------

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-do], [data-copy]");
  if (!button) return;
  if (button.dataset.do === "theme") {
    chosen = themes[(themes.indexOf(chosen) + 1) % themes.length];
    store("brigade-theme", chosen);
    theme(chosen);
  }
  if (button.dataset.do === "help") help.showModal();
  if (button.dataset.copy) {
    const text = document.getElementById(button.dataset.copy)?.textContent ?? "";
    const before = button.textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      // Without the right to the clipboard: select it, for the keys of the system.
      getSelection().selectAllChildren(document.getElementById(button.dataset.copy));
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = before; }, 1500);
  }
});
