// The machine as the page sees it: two terminals' bytes, and questions to the desk on the serial port between them.

const encoder = new TextEncoder(), decoder = new TextDecoder();
export const TAB = new URL(".", import.meta.url), BOOK = new URL("..", TAB);
const DESK = 1;

/** Why there can be no machine here, as one sentence; nothing if there can be. */
export function obstacle() {
  if (typeof WebAssembly !== "object") return "This browser has no WebAssembly, which the machine is made of: use another one.";
  if (typeof Worker !== "function") return "This browser has no workers, in which the machine runs: use another one.";
  if (navigator.deviceMemory < 1) return "This device has too little memory for the machine, which wants 400 MB.";
  return "";
}

/** True if no other tab of this browser has the machine; it is ours then until this page is closed. */
function alone() {
  if (!navigator.locks) return Promise.resolve(true);
  return new Promise(resolve => navigator.locks.request("minidocker-machine", { ifAvailable: true }, lock => {
    resolve(Boolean(lock));
    return lock && new Promise(() => {});
  }));
}

/** The service worker keeps what has been fetched, so that the next visit needs no network. */
export async function keep(list) {
  if (!navigator.serviceWorker) return;
  try {
    await navigator.serviceWorker.register(new URL("sw.js", BOOK));
    const { active } = await navigator.serviceWorker.ready;
    if (list) active.postMessage({ keep: list });
  } catch { /* without it the book needs the network, as any page */ }
}

export class Machine extends EventTarget {
  constructor() {
    super();
    this.rest = "";
    this.asked = new Map();
    this.number = 0;
    this.running = null;
    this.mine = false;
  }

  /** A promise of the running machine; an error is a sentence for the reader. */
  start() {
    return this.running ??= this.begin().catch(error => { this.running = null; throw error; });
  }

  async begin() {
    const why = obstacle();
    if (why) throw new Error(why);
    this.mine ||= await alone(); // a second try has it already
    if (!this.mine) throw new Error("The machine runs in another tab of this browser: close that one, or go on there.");
    await Promise.race([keep(), new Promise(resolve => setTimeout(resolve, 2000))]);
    this.worker?.terminate();
    this.worker = new Worker(new URL("worker.js", TAB));
    await new Promise((resolve, reject) => {
      this.worker.onerror = event => reject(new Error(`The machine did not start (${event.message}): reload the page.`));
      this.worker.onmessage = ({ data }) => {
        if (data.ready) resolve();
        else if (data.broken) reject(new Error(data.broken));
        else if (data.part) this.tell("progress", data);
        else if (data.port === DESK) this.answered(decoder.decode(data.bytes, { stream: true }));
        else this.tell("output", data);
      };
      this.worker.postMessage({ go: true });
    });
  }

  tell(kind, detail) {
    this.dispatchEvent(new CustomEvent(kind, { detail }));
  }

  send(port, text) {
    this.worker.postMessage({ port, bytes: encoder.encode(text) });
  }

  /** To the desk; `said` is called with each answer, and the promise is that of the last one. */
  async ask(message, said = () => {}) {
    await this.start();
    const number = ++this.number;
    return new Promise(resolve => {
      this.asked.set(number, answer => {
        said(answer);
        if ("end" in answer) { this.asked.delete(number); resolve(answer); }
      });
      this.send(DESK, JSON.stringify({ ...message, number }) + "\n");
    });
  }

  /** To the desk, without an answer; a machine that does not run is left so. */
  async order(message) {
    if (!this.running) return;
    await this.running;
    this.send(DESK, JSON.stringify(message) + "\n");
  }

  answered(text) {
    const lines = (this.rest + text).split("\n");
    this.rest = lines.pop();
    for (const line of lines) {
      let answer;
      try { answer = JSON.parse(line); } catch { continue; }
      this.asked.get(answer.number)?.(answer);
    }
  }

  /** The saved state again. What was asked before gets no answer any more. */
  async reset() {
    await this.start();
    const open = [...this.asked.values()];
    this.rest = "";
    await new Promise(resolve => {
      const { onmessage } = this.worker;
      this.worker.onmessage = event => {
        if (event.data.ready) { this.worker.onmessage = onmessage; resolve(); }
        else if (event.data.broken) onmessage(event);
      };
      this.worker.postMessage({ reset: true });
    });
    open.forEach(answer => answer({ end: 0, ok: false, text: "the machine was reset\n" }));
    this.tell("reset");
  }
}

export const machine = new Machine();
