"""`python -m milpath` is the command line."""

from milpath.cli import main

if __name__ == "__main__":
    main()
