"""``python -m tlserve`` is the ``tlserve`` command."""

import sys

if __name__ == "__main__":
    # `python -m` puts the current folder first: a service.py or export.py that happens to lie there
    # must not be taken for ours.
    sys.path.append(sys.path.pop(0))
    from tlserve.cli.main import main

    main()
