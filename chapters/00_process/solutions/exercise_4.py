"""Solution 4: `__enter__` makes it, `inside` goes there, `__exit__` removes it; the engine sees to the "whatever"."""

import os
import shutil
import tempfile

from minidocker.process import Isolator


class Scratch(Isolator):
    def __enter__(self):
        self.directory = tempfile.mkdtemp(prefix="scratch-")
        return self

    def inside(self):
        os.chdir(self.directory)

    def __exit__(self, *_):
        self.files = sorted(os.listdir(self.directory))
        shutil.rmtree(self.directory)
