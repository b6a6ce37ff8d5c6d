"""Exercise 2: who is 0?"""

from minidocker.namespaces import Namespaces
from minidocker.process import run


def make_file(path, first):
    """The same file has two owners, depending on who looks."""
    user = Namespaces("user", uid_map=f"0 {first} 65536", gid_map=f"0 {first} 65536")
    return int(run(["sh", "-c", f"touch {path} && stat -c %u {path}"], user).stdout)
