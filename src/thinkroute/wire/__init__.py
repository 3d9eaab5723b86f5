"""One module per API dialect: parse, render, stream. Pure: no I/O, no clocks, no state beyond one message."""
