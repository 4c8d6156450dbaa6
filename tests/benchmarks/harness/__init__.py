"""How every benchmark measures: in one run, turn about, on cores of their own.

    machine    the cores of generator and server; what the figures were measured on
    processes  a process tree: started on the server's core, its CPU time, its end
    peers      the contestants: an environment of its own for each, a server, how a request looks
    load       closed loop (wrk) and open loop, both on the generator's core
    rounds     medians, and ratios of figures that were measured in the same round
    report     results.json and the table that is printed

Peers, their packages and their models lie in a cache outside the repository; nothing of them is installed
into our environment.
"""
