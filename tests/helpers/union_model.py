"""What a union mount must do, in plain Python: the judge of chapter 4's drivers.

A tree of nodes in memory. `seal()` makes everything that exists a lower branch; from then on, a change to it goes
through a copy-up. The model shares no code and no idea with the drivers: it has no branches and no whiteouts.
"""

import errno
import os


class Refused(Exception):
    """The errno that the kernel must answer with."""


class Node:
    def __init__(self, kind, mode, content=b""):
        self.kind, self.mode, self.content = kind, mode, content
        self.children = {}
        self.upper = True  # it is in the writable branch, and nowhere else

    def clone(self):
        return Node(self.kind, self.mode, self.content)


class Model:
    """One method for each operation; paths are relative, e.g. "a/b". It answers as `Real` does, or raises `Refused`."""

    def __init__(self):
        self.root = Node("dir", 0o755)

    def seal(self):
        for node in self._nodes():
            node.upper = False

    def unseal(self):
        """What the driver `copy` does: everything is in the writable branch before the first operation."""
        for node in self._nodes():
            node.upper = True

    def _nodes(self):
        waiting = [self.root]
        for node in waiting:
            yield node
            waiting.extend(node.children.values())

    # --- finding ---

    def _parent(self, path):
        *directories, name = path.split("/")
        node = self.root
        for part in directories:
            node = self._child(node, part)
            if node.kind == "link":
                raise Refused(errno.ENOENT)  # every link of the tests points to nothing
            if node.kind != "dir":
                raise Refused(errno.ENOTDIR)
        return node, name

    def _child(self, node, name):
        if name not in node.children:
            raise Refused(errno.ENOENT)
        return node.children[name]

    def _find(self, path):
        parent, name = self._parent(path)
        return self._child(parent, name)

    def _copy_up(self, path):
        """A lower file with several names becomes a file of its own."""
        parent, name = self._parent(path)
        node = parent.children[name]
        if not node.upper and node.kind != "dir":
            parent.children[name] = node = node.clone()
        return node

    def _to_write(self, path):
        node = self._find(path)
        if node.kind != "file":
            raise Refused(errno.EISDIR if node.kind == "dir" else errno.ELOOP)
        return self._copy_up(path)

    def _new(self, path, node):
        parent, name = self._parent(path)
        if name in parent.children:
            raise Refused(errno.EEXIST)
        parent.children[name] = node

    # --- operations ---

    def create(self, path, data):
        self._new(path, Node("file", 0o644, data))

    def write(self, path, offset, data):
        node = self._to_write(path)
        content = node.content.ljust(offset, b"\0")
        node.content = content[:offset] + data + content[offset + len(data) :]

    def append(self, path, data):
        self._to_write(path).content += data

    def overwrite(self, path, data):
        self._to_write(path).content = data

    def truncate(self, path, size):
        if self._find(path).kind == "link":
            raise Refused(errno.ENOENT)
        node = self._to_write(path)
        node.content = node.content[:size].ljust(size, b"\0")

    def chmod(self, path, mode):
        if self._find(path).kind == "link":
            raise Refused(errno.ENOENT)
        self._copy_up(path).mode = mode

    def mkdir(self, path):
        self._new(path, Node("dir", 0o755))

    def symlink(self, path, text):
        self._new(path, Node("link", 0o777, text.encode()))

    def unlink(self, path):
        parent, name = self._parent(path)
        if self._child(parent, name).kind == "dir":
            raise Refused(errno.EISDIR)
        del parent.children[name]

    def rmdir(self, path):
        parent, name = self._parent(path)
        node = self._child(parent, name)
        if node.kind != "dir":
            raise Refused(errno.ENOTDIR)
        if node.children:
            raise Refused(errno.ENOTEMPTY)
        del parent.children[name]

    def link(self, old, new):
        node = self._find(old)
        parent, name = self._parent(new)
        if name in parent.children:
            raise Refused(errno.EEXIST)
        if node.kind == "dir":
            raise Refused(errno.EPERM)
        parent.children[name] = self._copy_up(old)

    def rename(self, old, new):
        old_parent, old_name = self._parent(old)
        new_parent, new_name = self._parent(new)
        node = self._child(old_parent, old_name)
        if new.startswith(old + "/"):
            raise Refused(errno.EINVAL)
        if old.startswith(new + "/"):
            raise Refused(errno.ENOTEMPTY)
        replaced = new_parent.children.get(new_name)
        if old == new or (replaced is node and node.upper):
            return
        self._check_replaced(node, replaced)
        if node.kind == "dir" and not node.upper:
            raise Refused(errno.EXDEV)
        if node.kind == "dir" and replaced is not None and replaced.children:
            raise Refused(errno.ENOTEMPTY)
        node = self._copy_up(old)
        del old_parent.children[old_name]
        new_parent.children[new_name] = node

    def _check_replaced(self, node, replaced):
        if replaced is None:
            return
        if node.kind == "dir" and replaced.kind != "dir":
            raise Refused(errno.ENOTDIR)
        if node.kind != "dir" and replaced.kind == "dir":
            raise Refused(errno.EISDIR)

    # --- reading ---

    def read(self, path):
        node = self._find(path)
        if node.kind == "link":
            raise Refused(errno.ELOOP)
        if node.kind == "dir":
            raise Refused(errno.EISDIR)
        return node.content

    def names(self, path):
        node = self._find(path)
        if node.kind == "link":
            raise Refused(errno.ENOENT)
        if node.kind == "file":
            raise Refused(errno.ENOTDIR)
        return sorted(node.children)

    def status(self, path):
        node = self._find(path)
        return node.kind, node.mode, None if node.kind == "dir" else len(node.content)

    def tree(self):
        """Everything: path -> (kind, mode, content, all names of the same file)."""
        paths, found = {}, {}
        waiting = [("", self.root)]
        for path, node in waiting:
            for name, child in node.children.items():
                waiting.append((f"{path}{name}/", child))
                if child.kind != "dir":
                    paths.setdefault(id(child), set()).add(path + name)
                found[path + name] = child
        return {path: (n.kind, n.mode, n.content, frozenset(paths.get(id(n), ()))) for path, n in found.items()}


class Real:
    """The same operations on a directory, by the calls that a program makes."""

    def __init__(self, top):
        self.top = top

    def _at(self, path):
        return os.path.join(self.top, path)

    def _write(self, path, flags, data, offset=None):
        descriptor = os.open(self._at(path), os.O_WRONLY | os.O_NOFOLLOW | flags, 0o644)
        try:
            if offset is None:
                os.write(descriptor, data)
            else:
                os.pwrite(descriptor, data, offset)
        finally:
            os.close(descriptor)

    def create(self, path, data):
        self._write(path, os.O_CREAT | os.O_EXCL, data)

    def write(self, path, offset, data):
        self._write(path, 0, data, offset)

    def append(self, path, data):
        self._write(path, os.O_APPEND, data)

    def overwrite(self, path, data):
        self._write(path, os.O_TRUNC, data)

    def truncate(self, path, size):
        os.truncate(self._at(path), size)

    def chmod(self, path, mode):
        os.chmod(self._at(path), mode)

    def mkdir(self, path):
        os.mkdir(self._at(path), 0o755)

    def symlink(self, path, text):
        os.symlink(text, self._at(path))

    def unlink(self, path):
        os.unlink(self._at(path))

    def rmdir(self, path):
        os.rmdir(self._at(path))

    def link(self, old, new):
        os.link(self._at(old), self._at(new), follow_symlinks=False)

    def rename(self, old, new):
        os.rename(self._at(old), self._at(new))

    def read(self, path):
        descriptor = os.open(self._at(path), os.O_RDONLY | os.O_NOFOLLOW)
        try:
            return os.read(descriptor, 1 << 20)
        finally:
            os.close(descriptor)

    def names(self, path):
        return sorted(os.listdir(self._at(path)))

    def status(self, path):
        return self._status(os.lstat(self._at(path)))

    def _status(self, status):
        kind = {0o04: "dir", 0o12: "link", 0o10: "file"}[status.st_mode >> 12]
        return kind, status.st_mode & 0o7777, None if kind == "dir" else status.st_size

    def tree(self):
        found, numbers = {}, {}
        for directory, directories, files in os.walk(self.top):
            for name in [*directories, *files]:
                path = os.path.relpath(os.path.join(directory, name), self.top)
                status = os.lstat(self._at(path))
                kind, mode, _ = self._status(status)
                content = {"dir": lambda _: b"", "file": self.read, "link": lambda p: os.readlink(self._at(p)).encode()}
                if kind != "dir":
                    numbers.setdefault(status.st_ino, set()).add(path)
                found[path] = kind, mode, content[kind](path), status.st_ino
        return {p: (k, m, c, frozenset(numbers.get(i, ()) if k != "dir" else ())) for p, (k, m, c, i) in found.items()}


def outcome(subject, operation, *arguments):
    """What an operation returned, or the errno that it was refused with."""
    try:
        return getattr(subject, operation)(*arguments)
    except Refused as refused:
        return f"errno {errno.errorcode[refused.args[0]]}"
    except OSError as refused:
        return f"errno {errno.errorcode[refused.errno]}"
