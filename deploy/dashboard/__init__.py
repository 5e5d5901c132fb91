"""The Grafana dashboard, made by ``python -m deploy.dashboard``.

``panels`` knows how a panel looks, ``rows`` which there are and what they ask, ``board`` puts them
together. The result is kept in ``deploy/compose/grafana/dashboards/`` and held by a test.
"""
