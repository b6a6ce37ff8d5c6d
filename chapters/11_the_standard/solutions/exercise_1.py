"""Exercise 1: config.json."""


def config(root, argv):
    """A version, a process, a root; namespaces are made only if they are named."""
    return {
        "ociVersion": "1.0.2",
        "process": {"args": argv, "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin:/usr/bin"]},
        "root": {"path": root},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}]},
    }
