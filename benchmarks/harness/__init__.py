"""Parts of the benchmarks: the upstream, the load, the gateway's process, the machine, the result."""
