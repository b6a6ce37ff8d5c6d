"""Chapter 8: containers beside virtual machines, measured. Each module is one question, and answers it with numbers.

    laps       where does the time of a start go?
    machine    how long does a virtual machine take, as small as can be, and a usual one?
    storage    how much disk do n servers need?
    memory     how much memory does one that does nothing need, and how many fit?
    demand     can a server exist for as long as one request takes?
    sharing    what is a hard half of a machine worth, and what a share of it?

`make bench` runs all of them, beside other runtimes; the notebook draws from the same functions. What they measure is
real: nothing here knows a result.
"""
