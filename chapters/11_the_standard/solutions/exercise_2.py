"""Exercise 2: a hook."""


def hooked(config, log):
    """A hook of the moment createRuntime runs on the host, and reads the state, in which the number stands."""
    script = f"""sed -n 's/.*"pid": *\\([0-9]*\\).*/\\1/p' >{log}"""
    hook = {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}
    return config | {"hooks": {"createRuntime": [hook]}}
