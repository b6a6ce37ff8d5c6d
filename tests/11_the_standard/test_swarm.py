"""Chapter 11: two hosts in a swarm over our runtime, and what becomes of a service when one of them dies."""

import itertools

import pytest
from swarm import Cluster

from tests.helpers.standard import needs, needs_room, runtime

pytestmark = [pytest.mark.chapter(11), needs_room]


def test_a_service_outlives_a_host_and_is_updated_while_it_is_visited():
    needs("dockerd", "docker", "sshfs", "sshd", "ip")
    with Cluster(runtime) as cluster:
        assert cluster.serve(replicas=4) and cluster.replicas() == [2, 2]
        with cluster.visited():
            cluster.pass_time(2)
            cluster.page("another page")
            cluster.pass_time(2)
            cluster.hosts[1].off()
            assert cluster.until(lambda: cluster.replicas() == [4, 0])
            assert cluster.update(VERSION=2)
            cluster.pass_time(1)
        came = [what for _, what in cluster.requests]
        assert {what.split()[0].partition("-")[0] for what in came if what != "lost"} == {"host1", "host2"}
        assert came[-1].split()[1:] == ["2", "another", "page"]
        assert sum(what == "lost" for what in came) < len(came) / 4
        versions = [what.split()[1] for what in came if what != "lost"]
        assert versions[0] == "1" and [k for k, _ in itertools.groupby(versions)] != ["1"]
    assert not any(machine.keeper.alive() for machine in (*cluster.hosts, cluster.files))
