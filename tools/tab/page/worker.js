// The machine, beside the page: fetches its parts, checks that they are whole, and runs it.
// The page says {go}, {port, bytes}, {reset}; this says {part, done, of}, {ready}, {port, bytes}, {broken: sentence}.
"use strict";

let machine, state;

async function fetched(name, facts, cache) {
  const answer = await fetch(name, { cache });
  if (!answer.ok || !answer.body) throw new Error(`${name}: the web server answers ${answer.status}`);
  const whole = new Uint8Array(facts.bytes), reader = answer.body.getReader();
  let length = 0;
  for (let piece; !(piece = await reader.read()).done; length += piece.value.length) {
    if (length + piece.value.length > facts.bytes) throw new Error(`${name} is longer than ${facts.bytes} bytes`);
    whole.set(piece.value, length);
    postMessage({ part: name, done: length + piece.value.length, of: facts.bytes });
  }
  if (length !== facts.bytes) throw new Error(`${name} ended after ${length} of ${facts.bytes} bytes`);
  if (self.crypto?.subtle) {
    const sum = new Uint8Array(await crypto.subtle.digest("SHA-256", whole));
    const written = [...sum].map(byte => byte.toString(16).padStart(2, "0")).join("");
    if (written !== facts.sha256) throw new Error(`${name} is not what was published`);
  }
  return whole.buffer;
}

/** A part of the machine. What a cache has may be what was spoiled: the second time it comes from the server. */
async function part(name, facts) {
  try { return await fetched(name, facts, "default"); } catch { return await fetched(name, facts, "reload"); }
}

async function go() {
  let wasm;
  try {
    const facts = await (await fetch("parts.json")).json();
    importScripts("libv86.js");
    [wasm, state] = await Promise.all(["v86.wasm", "state.bin.zst"].map(name => part(name, facts[name])));
  } catch (error) {
    return postMessage({ broken: `The download of the machine broke off (${error.message}): reload the page to try again.` });
  }
  try {
    machine = new V86({
      wasm_fn: async imports => (await WebAssembly.instantiate(wasm, imports)).instance.exports,
      initial_state: { buffer: state }, memory_size: 256 << 20, vga_memory_size: 2 << 20, uart1: true, uart2: true,
      autostart: true, disable_speaker: true,
    });
  } catch (error) {
    return memory(error);
  }
  const waiting = [[], [], []];
  for (const port of [0, 1, 2])
    machine.add_listener(`serial${port}-output-byte`, byte => {
      if (waiting[port].push(byte) === 1) setTimeout(() => {
        postMessage({ port, bytes: new Uint8Array(waiting[port]) });
        waiting[port] = [];
      }, 4);
    });
  machine.add_listener("emulator-started", () => postMessage({ ready: true }));
}

function memory(error) {
  postMessage({ broken: "The browser has too little memory for the machine, which wants 400 MB: "
    + `close other tabs, and reload the page (${error.message}).` });
}

addEventListener("unhandledrejection", event => memory(event.reason));
addEventListener("message", async ({ data }) => {
  if (data.go) go();
  if (data.bytes) machine.serial_send_bytes(data.port, data.bytes);
  if (data.reset) {
    await machine.stop();
    await machine.restore_state(state);
    machine.run();
  }
});
