"""Chapter 5: images. A base and layers of differences, each stored once, in the format that all container tools read.

    store.py       an OCI image layout: blobs by digest, tags; and layers, unpacked once each
    tar.py         the archive format of layers, read and written byte by byte
    layer.py       a directory to a layer and back: the difference, its whiteouts, and a hostile layer in a jail
"""
