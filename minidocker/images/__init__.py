"""Chapter 5: images. A base and layers of differences, each stored once, in the format that all container tools read.

manifest, store, image                          documents and names, where they lie, what goes
container, inside                               the way from an image to a container
tar, layer                                      a directory to a layer, and back
build; registry; archive                        Dockerfiles; pull and push; save and load, import and export
"""
