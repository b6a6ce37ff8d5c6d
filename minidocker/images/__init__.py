"""Chapter 5: images. A base and layers of differences, each stored once, in the format that all container tools read.

manifest, reference, store, image, garbage, container, inside     documents, names, and the way to a container
tar, diff, pack; unpack, apply, restore, share                    a directory to a layer, and back
registry/: access, client, transfer                              pull and push
members, archive, flat                                            save and load, import and export
build, and what it imports                                        Dockerfiles
"""
