"""Chapter 5: building images. A build is run and commit, once for each instruction of a Dockerfile.

In reading order: dockerfile (a text becomes instructions), config (those that only set something), patterns and copy
(COPY and ADD), run (RUN), executor (all of it, stage by stage, with the cache).
"""
