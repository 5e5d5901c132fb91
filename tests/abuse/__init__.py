"""Requests that nobody should send, thousands of them, with good traffic beside them.

    python -m tests.abuse --inputs 10000

Each is made from its number alone, so that one that did harm can be sent again.
"""
