"""Stage 11: what an engine does with a runtime: a bundle, and then one command after another, each a program that ends.

python chapters/11_the_standard/stage.py [COMMAND [ARGUMENT...]]
"""

import json
import os
import subprocess
import sys
import tempfile
import time

REPO = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
ROOT = f"{os.environ.get('MINIDOCKER_HOME', '/var/lib/minidocker')}/roots/busybox"
NAME = f"stage11-{os.getpid()}"


def runtime(*words, **streams):
    env = {**os.environ, "PYTHONPATH": REPO}
    return subprocess.run([sys.executable, "-m", "minidocker", "runtime", *words], env=env, text=True, **streams)


with tempfile.TemporaryDirectory() as bundle:
    runtime("spec", "--bundle", bundle, check=True)
    with open(f"{bundle}/config.json") as file:
        config = json.load(file)
    config["root"]["path"] = ROOT
    config["process"] |= {"terminal": bool(sys.argv[1:]) and os.isatty(0), "args": sys.argv[1:] or ["echo", "hello"]}
    with open(f"{bundle}/config.json", "w") as file:
        json.dump(config, file)
    if sys.argv[1:]:  # all at once, in the foreground
        sys.exit(runtime("run", "--bundle", bundle, NAME).returncode)
    try:
        for verb in ("create", "state", "start", "state", "delete"):  # what create inherits, the container keeps
            bundle_words = ["--bundle", bundle] if verb == "create" else []
            done = runtime(verb, *bundle_words, NAME, stdout=subprocess.PIPE if verb == "state" else None)
            time.sleep(0.2 if verb == "start" else 0)  # nobody waits for it: that is the shim's part
            print(f"{verb}: {json.loads(done.stdout)['status'] if verb == 'state' else done.returncode}", flush=True)
    finally:
        runtime("delete", "--force", NAME)
