"""Exercise 1: an image by hand, with tar, gzip, sha256 and JSON."""

import gzip
import hashlib
import json
import os
import subprocess

from minidocker.images.manifest import platform


def image_by_hand(directory, layout):
    """Three blobs and an index. The layer has two digests: of the tar, and of what gzip made of it."""
    blobs = f"{layout}/blobs/sha256"
    os.makedirs(blobs)

    def put(data, media_type):
        digest = hashlib.sha256(data).hexdigest()
        with open(f"{blobs}/{digest}", "wb") as file:
            file.write(data)
        return {"mediaType": f"application/vnd.oci.image.{media_type}", "digest": f"sha256:{digest}", "size": len(data)}

    tar = subprocess.run(["tar", "-C", directory, "-c", "."], capture_output=True, check=True).stdout
    diff_id = "sha256:" + hashlib.sha256(tar).hexdigest()
    layer = put(gzip.compress(tar, mtime=0), "layer.v1.tar+gzip")
    document = {**platform(), "config": {}, "rootfs": {"type": "layers", "diff_ids": [diff_id]}}
    config = put(json.dumps(document).encode(), "config.v1+json")
    manifest = put(json.dumps({"schemaVersion": 2, "config": config, "layers": [layer]}).encode(), "manifest.v1+json")
    manifest["annotations"] = {"org.opencontainers.image.ref.name": "hand:latest"}
    with open(f"{layout}/index.json", "w") as file:
        json.dump({"schemaVersion": 2, "manifests": [manifest]}, file)
    with open(f"{layout}/oci-layout", "w") as file:
        json.dump({"imageLayoutVersion": "1.0.0"}, file)
