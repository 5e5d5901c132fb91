"""``python -m tlserve`` is the ``tlserve`` command."""

from tlserve.cli.main import main

if __name__ == "__main__":
    main()
