"""Registries for the tests of chapter 5: Debian's, and one in a thread that really speaks HTTP and misbehaves."""

import base64
import contextlib
import hashlib
import http.server
import json
import os
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path

from minidocker.images import manifest as media
from minidocker.images.image import make

# htpasswd -nbB ann secret: bcrypt is the only kind that docker-registry accepts
HTPASSWD = "ann:$2y$05$YObzoTAFWeHHyHRYXyR7..O9Uh/OH1bvMUYRJLrt3FCka/Go8GrPO\n"
CONFIG = {"Cmd": ["/bin/hello"], "Env": ["PATH=/bin"]}


def tree(path, seed="", size=3000):
    """A small root file system; another seed gives another layer."""
    (path / "bin").mkdir(parents=True)
    (path / "bin/hello").write_text(f"#!/bin/sh\necho hello {seed}\n")
    (path / "bin/hello").chmod(0o755)
    (path / "noise").write_bytes(hashlib.shake_256(seed.encode()).digest(size))
    return path


def image(store, name, trees, config=CONFIG):
    """An image of these directories, the base first."""
    with store.writing():
        pairs = [store.add_layer(str(path)) for path in trees]
        rootfs = {"type": "layers", "diff_ids": [diff_id for _, diff_id in pairs]}
        made = make(store, {**media.platform(), "config": config, "rootfs": rootfs}, [layer for layer, _ in pairs])
        if name:
            store.tag(name, made.descriptor)
    return made


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def debian_registry(directory, htpasswd="", certificate=None):
    """docker-registry on a loopback port of its own; yields "localhost:PORT"."""
    port = free_port()
    directory.mkdir(exist_ok=True)
    config = {
        "version": "0.1",
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(directory / "data")}, "delete": {"enabled": True}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    if htpasswd:
        (directory / "htpasswd").write_text(htpasswd)
        config["auth"] = {"htpasswd": {"realm": "tests", "path": str(directory / "htpasswd")}}
    if certificate:
        config["http"]["tls"] = {"certificate": f"{certificate}.crt", "key": f"{certificate}.key"}
    (directory / "config.yml").write_text(json.dumps(config))  # JSON is YAML
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(directory / "config.yml")], stderr=log, stdout=log)
    try:
        wait_for(port, process)
        yield f"localhost:{port}"
    finally:
        process.terminate()
        process.wait()


def wait_for(port, process):
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise AssertionError(f"the registry does not listen on port {port}")


def certificate(path):
    """A certificate of localhost that nobody has signed but itself: path.crt, path.key."""
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", f"{path}.key", "-out", f"{path}.crt"]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subprocess.run([*command, "-days", "2", *subject, *files], check=True, capture_output=True)
    return path


class Registry(http.server.ThreadingHTTPServer):
    """Serves what is in `manifests` and `blobs`; a rule (part of a path -> function) may answer first, or do worse.

    A rule gets the handler and returns True if it has answered. `requests`: (method, path, headers) of all so far;
    `connections`: how many there were.
    """

    daemon_threads = False  # closing waits for the threads of all connections

    def __init__(self, host="127.0.0.1"):
        super().__init__((host, 0), Handler)
        self.manifests, self.blobs, self.requests, self.rules = {}, {}, [], {}
        self.uploads, self.connections = {}, 0
        self.name = f"{host}:{self.server_address[1]}"

    def __enter__(self):
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request, address):
        """A client that goes away in the middle is what these tests are about."""

    def serve(self, made, tag="1"):
        """Hold an image of a store, under a tag."""
        for digest in made.digests():
            self.blobs[digest] = Path(made.store.blob(digest)).read_bytes()
        self.document(self.blobs[made.descriptor["digest"]], tag)

    def document(self, value, *tags, kind=None):
        """Hold a manifest or an index; returns its descriptor."""
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        kind = kind or (value.get("mediaType") if isinstance(value, dict) else None) or media.MANIFEST
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        for name in (*tags, digest):
            self.manifests[name] = kind, data
        return {"mediaType": kind, "digest": digest, "size": len(data)}

    def blob(self, data, kind):
        """Hold a blob; returns its descriptor."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.blobs[digest] = data
        return {"mediaType": kind, "digest": digest, "size": len(data)}

    def asked(self, part, method="GET"):
        """The headers of the requests for such a path."""
        return [headers for verb, path, headers in self.requests if verb == method and part in path]


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    timeout = 20

    def setup(self):
        self.server.connections += 1
        super().setup()

    def log_message(self, *_):
        pass

    def handle_any(self):
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append((self.command, self.path, dict(self.headers)))
        for part, rule in list(self.server.rules.items()):
            if part in self.path and rule(self):
                return
        self.usual()

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def usual(self):
        """What a registry does."""
        name = self.path.rpartition("/")[2].partition("?")[0]
        if "/manifests/" in self.path and self.command == "PUT":
            self.server.document(self.body, name, kind=self.headers["Content-Type"])
            return self.answer(201)
        if "/manifests/" in self.path and name in self.server.manifests:
            kind, data = self.server.manifests[name]
            return self.answer(200, data, {"Content-Type": kind})
        if "/blobs/uploads/" in self.path:
            return self.upload()
        if "/blobs/" in self.path and name in self.server.blobs:
            return self.ranged(self.server.blobs[name])
        self.answer(404, json.dumps({"errors": [{"code": "UNKNOWN", "message": "not here"}]}).encode())

    def ranged(self, data):
        span = self.headers.get("Range", "").removeprefix("bytes=").partition("-")[0]
        if not span:
            return self.answer(200, data)
        begin = int(span)
        self.answer(206, data[begin:], {"Content-Range": f"bytes {begin}-{len(data) - 1}/{len(data)}"})

    def upload(self):
        uploads, name = self.server.uploads, self.path.rpartition("/")[2].partition("?")[0]
        if self.command == "POST":
            name = str(len(self.server.requests))
            uploads[name] = b""
            return self.answer(202, headers={"Location": f"/v2/app/blobs/uploads/{name}?state=x"})
        if self.command == "PUT":
            data = uploads.pop(name) + self.body
            digest = self.path.partition("digest=")[2]
            if digest != f"sha256:{hashlib.sha256(data).hexdigest()}":
                return self.answer(400)
            self.server.blobs[digest] = data
            return self.answer(201)
        self.answer(404)

    def answer(self, status, data=b"", headers=None):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        return True

    def chunks(self, data):
        """Send it without saying how much it will be."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in data:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")
        return True

    def cut(self, data, after):
        """Announce all of it, send a part, hang up."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:after])
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
        return True


def basic(user, password):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def contents(store):
    """Everything that an image leaves in a store: names, blobs, unpacked layers, litter."""
    return {
        *store.tags(),
        *os.listdir(f"{store.layout}/blobs/sha256"),
        *os.listdir(f"{store.unpacked}/sha256"),
        *os.listdir(store.tmp),
    }


def tls(server, path):
    """Let a server of ours speak TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{path}.crt", f"{path}.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
