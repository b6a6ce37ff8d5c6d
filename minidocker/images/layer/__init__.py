"""Chapter 5: a layer is a directory on the disk and a tar on the way: `unpack` makes one of the other, `pack` back.

What is gone has a mark, a whiteout. In the tar it is a file `.wh.NAME`, or `.wh..wh..opq` for all that is below a
directory: AUFS's format, which the specification kept. On the disk it is OverlayFS's: a character device 0/0, or an
attribute of the directory. Source: the OCI image specification, layer.md.
"""

WHITEOUT, OPAQUE = b".wh.", b".wh..wh..opq"
AUFS_PRIVATE = b".wh..wh."  # AUFS's own bookkeeping (.wh..wh.plnk, .wh..wh.aufs): not part of the content
CHUNK = 1 << 20
