// The terminal beside the text: opens on demand; buttons at commands and stages type them into it.
import { BOOK, TAB, keep, machine, obstacle } from "./machine.js";
import { exercises, lab } from "./lab.js";

const HOST = 0, INSIDE = 2;
const PLACEHOLDER = /(^|[\s/])[A-Z]{1,}[A-Z_]*($|\s)/;
const page = location.pathname.match(/(chapters|notebooks)\/((\d\d)_\w+)(\/|\.html)/) ?? [];
const [, kind, chapter, digits] = page;
const number = Number(digits);
const terminals = {};
const STEP = 5e6; // bytes: each step of a download is said aloud by a screen reader
const LACKS = {
  5: "It has no room for images: what this page does by hand runs here, and the rest on your own machine.",
  6: "It has volumes, but neither images nor servers: those need your own machine.",
  7: "It has a bridge and cables, but no firewall: published ports need your own machine.",
};
let facts = {}, panel, status, opened;

/** An element with properties and children. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties))
    name in element ? element[name] = value : element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export function say(sentence, bad = false) {
  if (!panel) build();
  status.textContent = sentence;
  status.classList.toggle("tab-bad", bad);
}

const button = (label, title, click) => make("button", { type: "button", title, onclick: click }, label);

function build() {
  const parts = {
    picture: make("div", { className: "tab-picture", hidden: true }),
    second: make("section", { className: "tab-screen", hidden: true, "aria-label": "Second terminal" }),
  };
  status = make("p", { className: "tab-status", role: "status" });
  panel = make("aside", { className: "tab-panel", "aria-label": "Terminal", hidden: true },
    make("header", {},
      make("strong", {}, "A machine of your own"),
      button("Second terminal", "Open or close a second terminal", () => second(parts.second.hidden)),
      button("Enter the container", "In the second terminal: go into the container that runs", enter),
      button("Look", "Draw the container that runs, as /proc shows it", look),
      button("Reset", "The machine as it was at the beginning", reset),
      button("Close", "Close the terminal; the machine goes on", close)),
    status,
    make("section", { className: "tab-screen", "aria-label": "Terminal of the host" }),
    parts.second, parts.picture,
    make("p", { className: "tab-foot" }, "F6 leaves the terminal. Nothing in it is kept. ",
      make("a", { href: new URL("tools/tab/README.html", BOOK) }, "What it is made of")));
  panel.parts = parts;
  document.body.append(panel);
  new ResizeObserver(() => Object.values(terminals).forEach(terminal => terminal.fit())).observe(panel);
}

/** A script of the folder, once. */
function script(name) {
  return new Promise((resolve, reject) => document.head.append(
    make("script", { src: new URL(name, TAB), onload: resolve, onerror: () => reject(new Error(`${name} did not load: reload the page.`)) })));
}

function terminal(port, place) {
  const screen = new Terminal({ screenReaderMode: true, fontSize: 14, lineHeight: 1.15, scrollback: 2000, theme: { background: "#10151c" } });
  const fitting = new FitAddon.FitAddon();
  screen.loadAddon(fitting);
  screen.open(place);
  screen.attachCustomKeyEventHandler(event => {
    if (event.type === "keydown" && event.key === "F6") panel.querySelector("header button").focus();
    return event.key !== "F6";
  });
  screen.onData(text => machine.send(port, text));
  screen.onResize(({ rows, cols }) => machine.order({ do: "size", port, rows, columns: cols }));
  screen.fit = () => { if (place.clientHeight) fitting.fit(); };
  terminals[port] = screen;
  screen.fit();
  machine.order({ do: "size", port, rows: screen.rows, columns: screen.cols });
  machine.send(port, "\n");
  return screen;
}

/** Open the panel, and start the machine if it does not run: a promise of the host's terminal. */
export function open() {
  if (!panel) build();
  panel.hidden = false;
  document.documentElement.classList.add("tab-open");
  return opened ??= begin().catch(error => {
    opened = null;
    say(error.message, true);
    throw error;
  });
}

/** What has come of the machine, in steps. */
function progress() {
  const arrived = {};
  let told = 0;
  return ({ detail }) => {
    arrived[detail.part] = detail;
    const [done, of] = ["done", "of"].map(key => Object.values(arrived).reduce((sum, part) => sum + part[key], 0));
    if (done === of) say("The machine wakes up.");
    else if (done >= told + STEP) {
      told = done - done % STEP;
      say(`The machine arrives: ${told / 1e6} of ${Math.ceil(of / 1e6)} MB`);
    }
  };
}

async function begin() {
  const tell = progress();
  machine.addEventListener("progress", tell);
  say("The machine arrives.");
  try {
    await Promise.all([machine.start(), script("xterm.js").then(() => script("addon-fit.js"))]);
  } finally {
    machine.removeEventListener("progress", tell);
  }
  machine.addEventListener("output", ({ detail }) => terminals[detail.port]?.write(detail.bytes));
  const screen = terminal(HOST, panel.querySelector(".tab-screen"));
  await new Promise(resolve => machine.addEventListener("output", resolve, { once: true }));
  say("Debian, with Linux 6.1, and you are root: nothing here can break your computer.");
  keep(facts.offline?.map(path => new URL(path, BOOK).href));
  return screen;
}

/** Type a command, with the key Enter after each line. */
export async function type(command, port = HOST) {
  try {
    const screen = await open();
    if (port === INSIDE) await second(true);
    machine.send(port, command.replace(/\n*$/, "\n"));
    (terminals[port] ?? screen).focus();
  } catch { /* it is said in the panel */ }
}

async function second(shown) {
  await open();
  panel.parts.second.hidden = !shown;
  if (shown && !terminals[INSIDE]) terminal(INSIDE, panel.parts.second);
  Object.values(terminals).forEach(screen => screen.fit());
}

async function enter() {
  await open();
  const { containers } = await machine.ask({ do: "look" });
  if (!containers.length) return say(`No container runs. Type a stage that waits, such as: python3 ${stage(2)} sh`, true);
  say(`The second terminal is in the container whose first process is ${containers.at(-1)} outside.`);
  type(`nsenter --all --target ${containers.at(-1)} sh`, INSIDE);
}

async function look() {
  const { picture } = panel.parts;
  picture.hidden = !picture.hidden;
  while (!picture.hidden && !panel.hidden) {
    const { containers = [], svg } = await machine.ask({ do: "look" });
    const alt = `What /proc says of ${containers.join(" and ")}: namespaces, limits, processes, mounts.`;
    picture.replaceChildren(containers.length
      ? make("img", { alt, src: `data:image/svg+xml,${encodeURIComponent(svg)}` })
      : "No container runs now.");
    await new Promise(resolve => setTimeout(resolve, 2000));
  }
}

async function reset() {
  await open();
  say("The machine goes back to its beginning.");
  await machine.reset();
  for (const [port, screen] of Object.entries(terminals)) {
    screen.reset();
    machine.order({ do: "size", port: Number(port), rows: screen.rows, columns: screen.cols });
    machine.send(Number(port), "\n");
  }
  await new Promise(resolve => machine.addEventListener("output", resolve, { once: true }));
  say("The machine is as it was at the beginning.");
}

function close() {
  panel.hidden = true;
  document.documentElement.classList.remove("tab-open");
  document.querySelector(".tab-bar button")?.focus();
}

const stage = number => facts.stages[number];

/** Buttons at what the page prints for a shell: blocks, and `sudo` in a line. */
function commands() {
  const typing = (command, port) => make("button", {
    type: "button", className: "tab-type", title: "Type this in the terminal", "aria-label": `Type in the terminal: ${command}`,
    onclick: () => type(command, port),
  }, "▶");
  for (const block of document.querySelectorAll(".highlight-sh pre"))
    if (!/^make /m.test(block.textContent)) block.parentElement.append(typing(block.textContent));
  for (const code of number > 4 ? [] : document.querySelectorAll("article code")) {
    if (code.closest("details")) continue; // a hint names commands
    const text = code.textContent.replace(/\s+/g, " ");
    const command = text.match(/^(?:sudo (.*)|(unshare .*))$/);
    if (command && !PLACEHOLDER.test(text)) code.after(" ", typing(command[1] ?? command[2], text.includes("pkill") ? INSIDE : HOST));
  }
}

function bar() {
  const row = make("p", { className: "tab-bar" }, button("Open a terminal here", "A Linux machine in this page", () => open().then(screen => screen.focus(), () => {})));
  if (kind === "chapters" && stage(number)) {
    row.append(" ", button(`Run stage ${number}`, `python3 ${stage(number)}`, () => type(`python3 ${stage(number)}`)));
    row.append(" ", button(`Stage ${number} with a shell`, `python3 ${stage(number)} sh`, () => type(`python3 ${stage(number)} sh`)));
  }
  if (LACKS[number]) row.append(" ", make("span", {}, LACKS[number]));
  document.querySelector("article h1")?.after(row);
}

async function main() {
  if (!chapter || number > 7) return;
  facts = await (await fetch(new URL("book.json", TAB))).json();
  bar();
  if (obstacle()) {
    document.querySelectorAll(".tab-bar button").forEach(one => { one.disabled = true; });
    document.querySelector(".tab-bar").append(" ", make("span", { className: "tab-bad" }, obstacle()));
    return;
  }
  if (kind === "notebooks" && number > 4) return;
  if (kind === "notebooks") lab(chapter, facts.stored[chapter] ?? {});
  else {
    commands();
    exercises(number, chapter, facts.exercises[chapter] ?? {});
  }
}

main();
