"""`python -m pyengine` is the command line."""

from pyengine.cli import main

if __name__ == "__main__":
    main()
