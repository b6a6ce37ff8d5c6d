"""Exercise 5 (destructive): a fork bomb in a glass case.

Save your work first. Done wrong, this stops the machine; the check runs your isolator with a harmless command before.
Check your work: python3 chapters/00_process/exercises/check.py 5
"""

from minidocker.process import Isolator


class GlassCase(Isolator):
    """Let the command be user `uid`, and let that user have at most `processes` processes: setrlimit(2), RLIMIT_NPROC.

    Root is exempt from that limit, so the user must change; and after that it is too late for much else.
    """

    def __init__(self, uid=54321, processes=20):
        self.uid, self.processes = uid, processes
