"""`make bench`: minidocker beside other runtimes and virtual machines, in interleaved runs."""
