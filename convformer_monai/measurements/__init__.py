"""The arithmetic that tasks name: from a mask to numbers, and to doubts about them.

A task's ``measure`` is called with ``labels`` (phases, X, Y, Z) uint8, of a photograph (X, Y); ``series``, the image;
``table``, the structures; and the user's phases, if the task has moments. It returns the list of
:class:`~convformer_monai.measurements.values.Measurement` and the details, a dict ready for JSON that has ``notes``.
"""
