"""minidocker: what Docker is, built from the parts of the Linux kernel, one chapter at a time.

    from minidocker.process import run
    print(run(["echo", "hello"]).stdout)

Nothing is imported here: a container starts faster when it loads only what it uses.
"""
