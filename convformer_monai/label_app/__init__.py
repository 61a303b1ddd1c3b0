"""The MONAI Label app: annotators get a first mask from a bundle, correct it, and the model learns from it.

``launch`` starts the server; ``app`` is what MONAI Label runs; ``infer``, ``train`` and ``scoring`` are its tasks,
``datastores`` where images and labels lie, ``versions`` the weights. Only ``launch``, ``labels_in``, ``links``,
``options``, ``scratch``, ``versions`` and ``seg`` can be imported without MONAI Label.
"""
