"""`python -m aikcache`: the command line."""

from aikcache.cli import main

if __name__ == "__main__":
    main()
