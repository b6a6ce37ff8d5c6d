"""Stage 10: containers that stay: one by its parts, then the three that a compose file would make, by hand.

python chapters/10_engine/stage.py [COMMAND [ARGUMENT...]]
"""

import os
import subprocess
import sys

os.environ["PYTHONPATH"] = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
WWW = "mkdir -p /www/cgi-bin; cd /www/cgi-bin; printf '#!/bin/sh\\necho; %s\\n' \"$1\" >ask; chmod +x ask; "
SERVE, ASK = f"{WWW} exec httpd -f -h /www", "wget -qO- http://%s/cgi-bin/ask"
SERVICES = {
    "db": "echo row >>/data/rows; wc -l </data/rows",  # a database: it counts its rows, in a volume
    "app": f"echo you are visitor $({ASK % 'db'})",
    "web": ASK % "app",
}


def minidocker(*words, check=True, **streams):
    streams = streams or {"capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-m", "minidocker", *words], **streams)
    return sys.exit(f"stage 10: {done.stderr.strip()}") if check and done.returncode else done


try:
    if sys.argv[1:]:  # in the foreground, and yet with a monitor: it is not --rm
        words = ["-it" if os.isatty(0) else "-i", "--name", "stage10", "busybox", *sys.argv[1:]]
        sys.exit(minidocker("run", *words, check=False, stdin=0).returncode)
    minidocker("run", "-d", "--name", "stage10", "busybox", "sh", "-c", "echo up; exec sleep 60")
    print("entered:", minidocker("exec", "stage10", "ps", "-o", "pid,args").stdout.strip(), sep="\n")
    print("stopped:", minidocker("stop", "-t", "1", "stage10").stdout + minidocker("wait", "stage10").stdout, end="")
    minidocker("network", "create", "stage10")
    for name, script in SERVICES.items():
        words = ["--network", "stage10", "--network-alias", name, *(["-v", "stage10:/data"] if name == "db" else [])]
        minidocker("run", "-d", "--name", f"stage10-{name}", *words, "busybox", "sh", "-c", SERVE, "sh", script)
    print(minidocker("exec", "stage10-web", "sh", "-c", f"sleep 1; {ASK % 'localhost'}; {ASK % 'localhost'}").stdout)
finally:
    for words in ("rm -f stage10 stage10-web stage10-app stage10-db", "volume rm stage10", "network rm stage10"):
        minidocker(*words.split(), check=False)
