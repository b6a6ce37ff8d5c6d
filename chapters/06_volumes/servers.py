"""Three web servers on one volume of pages and one of logs: what the lab and the tests of this chapter start.

with start(*web_server("web1", layer)) as one:
    requests(one, 20)

`layer` is a directory with nginx in it, and what its image would bring: `make_layer`. Each server is in a network
namespace of its own and listens on port 80 of its own loopback; whoever asks it enters that namespace.
"""

import os
import shutil

from minidocker.namespaces import Join, Namespaces
from minidocker.process import run
from minidocker.rootfs import PivotRoot, copy_program
from minidocker.union import Union
from minidocker.volumes.spelling import from_v

ROOTS = f"{os.environ.get('MINIDOCKER_HOME', '/var/lib/minidocker')}/roots"
BUSYBOX, DEBIAN = f"{ROOTS}/busybox", f"{ROOTS}/debian"

CONFIG = """
daemon off; user nobody nogroup; worker_processes 1; pid /tmp/nginx.pid; error_log stderr;
events {}
http {
    log_format brief '$hostname $request_uri $status';
    access_log /var/log/nginx/access.log brief;
    server { listen 80; root /var/www; }
}
"""

# Every line of the log as it comes: which server, and how many it has answered until now
COUNT = """tail -n +1 -F /logs/access.log 2>/dev/null | mawk -W interactive '{ print $1, ++seen[$1] }'"""


def make_layer(directory):
    """nginx with its libraries and configuration, and the pages that its image has at /var/www."""
    for path in ("var/www", "var/log/nginx", "var/lib/nginx", "etc"):
        os.makedirs(f"{directory}/{path}")
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin")
    if program is None:
        raise FileNotFoundError("no nginx on this machine: run sh vagrant/provision.sh")
    copy_program(program, directory)
    with open(f"{directory}/etc/nginx.conf", "w") as config, open(f"{directory}/var/www/index.html", "w") as page:
        config.write(CONFIG)
        page.write("the page of the image\n")
    return directory


def container(argv, name, lowers, *volumes):
    """The arguments of start: the list of isolators with volumes, spelled as behind -v."""
    union = Union(lowers)
    mounted = [from_v(text, union.root) for text in volumes]
    return argv, Namespaces("pid mount uts ipc net", hostname=name), union, *mounted, PivotRoot(union.root)


def web_server(name, layer):
    """nginx: the pages are only read, the log is shared by all."""
    argv = [f"{shutil.which('nginx', path='/usr/sbin:/usr/bin')}", "-e", "stderr", "-c", "/etc/nginx.conf"]
    return container(argv, name, [layer, BUSYBOX], "pages:/var/www:ro", "logs:/var/log/nginx")


def log_processor():
    """It may read the logs, and has no other business with the servers."""
    return container(["sh", "-c", COUNT], "counter", [DEBIAN], "logs:/logs:ro")


def requests(server, number):
    """Ask a server so many times, as its neighbour in its network namespace; return the last answer."""
    urls = f"http://127.0.0.1/?[1-{number}]"
    curl = ["curl", "--silent", "--show-error", "--retry", "20", "--retry-connrefused", "--retry-delay", "1", urls]
    done = run(curl, Join(server.pid, "net"))
    if done.exit_code:
        raise ConnectionError(done.stderr)
    return done.stdout.splitlines()[-1]
