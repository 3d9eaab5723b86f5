"""The command line. Each command lives in its own module; heavy imports wait inside the commands."""
