"""`pytest notebooks` runs every notebook and compares each output with the stored one: strict nbval, no options needed.

nbval executes a cell a little differently from JupyterLab, and overlooks two kinds of failure. Here that is mended; a
test in tests/house/test_machinery.py for each shows that it is still needed, and that it works.
"""

import functools
import time
from pathlib import Path
from queue import Empty

import nbval.kernel
import nbval.plugin

HERE = Path(__file__).resolve().parent
from tools.book.notebooks import environment

NBVAL_TIMEOUT = 2000  # nbval's default, in seconds


def pytest_configure(config):
    """The options that every run of the notebooks needs."""
    config.option.nbval = True
    config.option.nbval_sanitize_with = str(HERE / "sanitize.cfg")
    if config.option.nbval_cell_timeout == NBVAL_TIMEOUT:
        config.option.nbval_cell_timeout = 60


class Kernel(nbval.kernel.RunningKernel):
    """A kernel that runs cells as JupyterLab does, and whose death or refusal is noticed."""

    def execute_cell_input(self, source, allow_stdin=None):
        """With history: without it, a line that ends in a semicolon prints its value all the same."""
        return self.kc.execute(source, store_history=True, allow_stdin=False, stop_on_error=False)

    def await_reply(self, msg_id, timeout=None):
        """Look every second whether the kernel lives: nbval would wait for a dead one until the time is over."""
        end = time.monotonic() + (timeout or NBVAL_TIMEOUT)
        while True:
            try:
                message = self.get_message("shell", timeout=1)
            except Empty:
                if not self.is_alive():
                    raise RuntimeError("the kernel died while it ran this cell") from None
                if time.monotonic() > end:
                    raise
                continue
            if message["parent_header"].get("msg_id") == msg_id:
                return _refuse_usage_error(message["content"])


def _refuse_usage_error(reply):
    """An unknown magic ends a cell without an exception on the output channel: nbval would let it pass, unrun."""
    if reply["status"] == "error" and reply.get("ename") == "UsageError":
        raise RuntimeError(f"the cell was not run: {reply.get('evalue')}")


nbval.plugin.RunningKernel = Kernel
nbval.kernel.start_new_kernel = functools.partial(
    nbval.kernel.start_new_kernel, env=environment(), extra_arguments=["--HistoryManager.enabled=False"]
)
