// Labs and exercises: cells and solutions run in the machine, and what the reader changes stays in the browser.
import { machine } from "./machine.js";
import { make, open, say } from "./tab.js";

const PICTURE = "img, svg, object";

/** What the reader wrote; without storage it lives as long as the page. */
const store = {
  get(key) { try { return localStorage.getItem(`minidocker:${key}`); } catch { return null; } },
  set(key, text) { try { localStorage.setItem(`minidocker:${key}`, text); } catch { /* a private window */ } },
  remove(key) { try { localStorage.removeItem(`minidocker:${key}`); } catch { /* a private window */ } },
};

/** A field for code that grows with it; Enter keeps the indentation, and Tab goes on to the buttons. */
function editor(key, given, label) {
  const field = make("textarea", { className: "tab-editor", value: store.get(key) ?? given, spellcheck: false, "aria-label": label });
  field.autocapitalize = "off";
  const fit = () => { field.rows = field.value.split("\n").length + 1; };
  field.addEventListener("input", () => { store.set(key, field.value); fit(); });
  field.addEventListener("keydown", event => {
    if (event.key !== "Enter" || event.ctrlKey || event.shiftKey) return;
    const line = field.value.slice(0, field.selectionStart).split("\n").pop();
    const indent = line.match(/^ */)[0] + (line.trimEnd().endsWith(":") ? "    " : "");
    event.preventDefault();
    field.setRangeText("\n" + indent, field.selectionStart, field.selectionEnd, "end");
    field.dispatchEvent(new Event("input"));
  });
  fit();
  return field;
}

/** One answer of the desk, below a cell. */
function show(place, answer) {
  if (answer.text) {
    if (place.lastChild?.nodeName !== "PRE") place.append(make("pre"));
    place.lastChild.textContent += answer.text;
  }
  const data = answer.data;
  if (!data) return;
  if (data["image/svg+xml"])
    place.append(make("img", { alt: data["text/plain"], src: `data:image/svg+xml,${encodeURIComponent(data["image/svg+xml"])}` }));
  else if (data["text/html"]?.includes('class="claim"')) place.append(make("p", { className: "tab-claim" }, data["text/plain"]));
}

class Cell {
  constructor(element, number, name, reason) {
    this.element = element;
    this.code = element.querySelector(".cell_input pre").textContent.replace(/\n$/, "");
    this.key = `${name}:${number}`;
    this.reason = reason;
    this.ran = false;
    this.place = make("div", { className: "tab-output", "aria-live": "polite" });
    this.bar = make("div", { className: "tab-cell" });
    element.querySelector(".cell_input").after(this.bar, this.place);
    if (reason) this.bar.append(make("span", {}, `Stored output: ${reason}.`));
    else this.buttons(number);
    if (store.get(this.key)) this.edit();
  }

  buttons(number) {
    const named = (label, click) => make("button", { type: "button", onclick: click, "aria-label": `${label}, cell ${number + 1}` }, label);
    this.bar.append(named("Run", () => this.run()), " ", named("Run to here", () => this.toHere()), " ", named("Edit", () => this.edit()));
  }

  edit() {
    if (this.field) return this.field.focus();
    this.field = editor(this.key, this.code, "Code of this cell");
    this.element.querySelector(".cell_input").hidden = true;
    this.bar.before(this.field);
    this.bar.append(" ", make("button", { type: "button", onclick: event => {
      store.remove(this.key);
      this.field.remove();
      this.field = null;
      event.target.remove();
      this.element.querySelector(".cell_input").hidden = false;
    } }, "As it was"));
  }

  /** True if the cell came to its end. What it says replaces the stored text; a stored picture stays, and says so. */
  async run() {
    try { await open(); } catch { return false; }
    this.place.replaceChildren();
    this.element.classList.add("tab-running");
    const answer = await machine.ask({ do: "run", code: this.field?.value ?? this.code }, one => show(this.place, one));
    this.element.classList.remove("tab-running");
    const stored = this.element.querySelector(":scope > .cell_output");
    for (const output of stored?.children ?? []) {
      const picture = output.querySelector(PICTURE) && !this.place.querySelector("img");
      output.hidden = !picture;
      if (picture && !output.querySelector(".tab-stored")) output.append(make("p", { className: "tab-stored" }, "The stored picture: it was measured on a whole machine."));
    }
    this.place.append(make("p", { className: answer.ok ? "tab-done" : "tab-done tab-bad" },
      answer.ok ? `ran here, ${answer.end.toFixed(1)} s` : "it failed here"));
    this.ran = true;
    return answer.ok;
  }

  async toHere() {
    for (const cell of this.all)
      if (!cell.reason && (!cell.ran || cell === this)) {
        say(`Cell ${this.all.indexOf(cell) + 1} of ${this.all.indexOf(this) + 1} runs.`);
        const ok = await cell.run();
        if (cell === this || !ok) break;
      }
    say("");
  }
}

/** A lab's page: each code cell gets its buttons. */
export function lab(name, stored) {
  const elements = [...document.querySelectorAll("div.cell")].filter(element => element.querySelector(".cell_input"));
  const cells = elements.map((element, number) => new Cell(element, number, name, stored[number]));
  for (const cell of cells) cell.all = cells;
  machine.addEventListener("reset", () => cells.forEach(cell => { cell.ran = false; }));
  const again = () => {
    machine.order({ do: "restart" });
    cells.forEach(cell => { cell.ran = false; });
  };
  const named = (label, title, click) => make("button", { type: "button", title, onclick: click }, label);
  document.querySelector(".tab-bar").append(
    " ", named("Run the whole lab", "Each cell that has not run yet", () => cells.findLast(cell => !cell.reason).toHere()),
    " ", named("Interrupt", "Stop the cell that runs", () => machine.order({ do: "interrupt" })),
    " ", named("Restart", "A new Python process for this lab", again));
}

/** The paragraph that begins with the number of an exercise, or the hint below it, wrapped so that more can follow. */
function paragraph(order) {
  const paragraphs = [...document.querySelectorAll("section#exercises > p")];
  const found = paragraphs.find(one => one.firstElementChild?.textContent === `${order}.`), hint = found?.nextElementSibling;
  const place = make("div");
  (hint?.nodeName === "DETAILS" ? hint : found)?.after(place);
  return found && place;
}

/** The exercises of a chapter's page: an editor below each, and the same check as make check-my. */
export function exercises(number, chapter, skeletons) {
  const items = document.querySelectorAll("section#exercises ol > li");
  for (const [order, text] of Object.entries(skeletons)) {
    const item = items[order - 1] ?? paragraph(order);
    if (!item) continue;
    const key = `${chapter}/exercise_${order}`, result = make("p", { className: "tab-result", role: "status" });
    const field = editor(key, text, `Your solution of exercise ${order}`);
    const check = async () => {
      try { await open(); } catch { return; }
      result.textContent = "The check runs.";
      await machine.order({ do: "write", path: `${key}.py`, text: field.value });
      let said = "";
      const { ok } = await machine.ask({ do: "run", code: `import lab\nlab.check(${number}, ${order})` }, one => { said += one.text ?? ""; });
      result.textContent = said.trim() || "the check did not run";
      result.classList.toggle("tab-bad", !ok || !/: done$/.test(said.trim()));
    };
    const again = () => { store.remove(key); field.value = text; field.dispatchEvent(new Event("input")); store.remove(key); };
    item.append(make("details", { className: "tab-exercise" }, make("summary", {}, "Solve it here"), field,
      make("button", { type: "button", onclick: check }, "Check"), " ",
      make("button", { type: "button", onclick: again }, "Start over"), result));
  }
}
