"""Stage 0: a process, started by us, with nothing around it yet.

python3 chapters/00_process/stage.py [COMMAND [ARGUMENT...]]
"""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))

from minidocker.outcome import ContainerError
from minidocker.process import run, start
from minidocker.terminal import Terminal, interact

DEMO = [
    "sh",
    "-c",
    "echo process $$, host $(hostname), user $(id -un), $(ls -d /proc/[0-9]* | wc -l) processes in sight",
]

command = sys.argv[1:] or DEMO
try:
    if sys.argv[1:] and os.isatty(0) and os.isatty(1):
        with start(command, Terminal(), env=dict(os.environ)) as process:
            result = interact(process)
    else:
        result = run(command, stdin=0, stdout=1, stderr=2)
except ContainerError as error:
    sys.exit(print(f"stage 0: {error}", file=sys.stderr) or error.exit_code)
sys.exit(result.exit_code)
