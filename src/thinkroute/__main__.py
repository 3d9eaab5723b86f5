"""`python -m thinkroute`: the command line where the installed script is not on the path."""

from __future__ import annotations

from thinkroute.cli.main import main

if __name__ == "__main__":
    main()
