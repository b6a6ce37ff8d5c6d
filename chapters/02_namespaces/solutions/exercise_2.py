"""Exercise 2: who is 0?"""

import os
import tempfile

from minidocker.namespaces import Namespaces
from minidocker.process import run


def owners():
    """The directory must be open to user 100000; then the same file has two owners, depending on who looks."""
    user = Namespaces("user", uid_map="0 100000 65536", gid_map="0 100000 65536")
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o777)
        seen = run(["sh", "-c", f"touch {place}/file && stat -c %u {place}/file"], user).stdout
        return int(seen), os.stat(f"{place}/file").st_uid
