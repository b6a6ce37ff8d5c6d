// Boot the machine once, in Node, let it come to rest at its prompts, and write its state to state.bin.
import { V86 } from "v86";
import fs from "fs";

const file = name => ({ buffer: new Uint8Array(fs.readFileSync(name)).buffer });
const machine = new V86({
  wasm_path: "node_modules/v86/build/v86.wasm", bios: file("bios.bin"), vga_bios: file("vgabios-stdvga.bin"),
  bzimage: file("vmlinuz"), initrd: file("initrd.gz"),
  // Pages are cleared when they are freed, so that they cost the state nothing; the kernel says on the terminal what is fatal.
  cmdline: "console=ttyS0 loglevel=2 init_on_free=1 mitigations=off random.trust_cpu=on no_timer_check nowatchdog",
  memory_size: 256 << 20, vga_memory_size: 2 << 20, uart1: true, uart2: true,
  autostart: true, disable_speaker: true,
});
const PROMPT = "root@machine:/srv/minidocker# ";
const said = ["", "", ""];
const send = (port, text) => machine.serial_send_bytes(port, new TextEncoder().encode(text));
const until = (port, text) => new Promise(resolve => {
  const timer = setInterval(() => { if (said[port].includes(text)) { clearInterval(timer); said[port] = ""; resolve(); } }, 100);
});
const pause = milliseconds => new Promise(resolve => setTimeout(resolve, milliseconds));
for (const port of [0, 1, 2])
  machine.add_listener(`serial${port}-output-byte`, byte => { said[port] += String.fromCharCode(byte); });

setTimeout(() => { console.error("the machine did not come to its prompts", said); process.exit(1); }, 300_000);
await Promise.all([until(0, PROMPT), until(2, PROMPT), until(1, '"ready": true')]);
// Walls once in the lab's process: the launcher is there, and what they import.
const warm = `from minidocker.process import run
from minidocker.namespaces import Namespaces
from minidocker.cgroups import Cgroup
from minidocker.rootfs import PivotRoot
from minidocker.union import Union
def walls():
    union = Union(["/var/lib/minidocker/roots/busybox"])
    return Namespaces("pid mount uts ipc net"), Cgroup(memory="64m"), Namespaces("cgroup"), union, PivotRoot(union.root)
assert run(["true"], *walls()).exit_code == 0
`;
send(1, JSON.stringify({ do: "run", number: 0, code: warm }) + "\n");
await until(1, '"ok": true');
send(0, "python3 chapters/00_process/stage.py true; clear\n");
await until(0, "clear");
await until(0, PROMPT);
await pause(2000);
fs.writeFileSync("state.bin", new Uint8Array(await machine.save_state()));
process.exit(0);
