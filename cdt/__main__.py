"""`python -m cdt`, which is the same as `python -m cdt.main`."""

import sys

from cdt.main import main

if __name__ == "__main__":
    sys.exit(main())
