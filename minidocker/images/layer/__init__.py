"""Chapter 5: a layer is a directory on the disk and a tar on the way: `unpack` makes one of the other, `pack` back."""
