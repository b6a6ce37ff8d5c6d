"""The machine in a browser tab: an x86 computer in WebAssembly, with Debian's kernel, Python and the package in it."""
