"""A DICOM node: takes studies from a PACS, segments what its rules choose, and sends the results back.

``config`` is what an administrator writes. An instance goes through ``listener`` or ``polling`` to ``intake``, and once
its study is complete through ``router``, ``worker`` and ``senders``; ``state`` remembers each step. ``node`` holds all.
"""
