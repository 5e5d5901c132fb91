"""Who may ask, how often, and how long they may take: keys, limits, TLS, connections.

::

    worker ── protocol     a connection: its time, its size, its end
      └── main ── middleware     a request: host, key, rate, type; the headers of its answer
                   ├── keys, rates
                   └── refusals
"""
