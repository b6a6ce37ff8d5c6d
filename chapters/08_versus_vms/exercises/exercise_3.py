"""Exercise 3: a page that is made by a container that was made for it."""


def serve(connection):
    """Answer an HTTP request on this socket, for `Front`, and throw everything away.

    A container made for this request writes the answer. Its body is three lines: its host name, which is `demand`; the
    number of files in its /tmp, after it has made one there; and the number of its shell's process.
    """
    connection.recv(4096)
    connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nnobody\n0\n0\n")
