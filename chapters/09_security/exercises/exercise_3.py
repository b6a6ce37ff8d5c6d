"""Exercise 3: a filter by hand."""


def program(number, error):
    """A filter in the language of classic BPF, as bytes: the system call `number` fails with `error`; all others, by
    the same architecture, are allowed; any call by another one ends the process.

    An instruction is a struct sock_filter, eight bytes: code, jump if true, jump if false, value (`struct.pack("=HBBI",
    ...)`). The data that it reads is struct seccomp_data: the call's number at 0, the architecture at 4.
    """
    return b""
