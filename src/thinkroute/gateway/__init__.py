"""The life of a request: HTTP in, a decision, a program run, an answer out, one record kept."""
