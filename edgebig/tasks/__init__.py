"""People's inputs to tensors, and tensors to answers: :mod:`~edgebig.tasks.vision`, :mod:`~edgebig.tasks.text`
and :mod:`~edgebig.tasks.speech`.

Each module is imported by its own name and needs only NumPy, plus Pillow for pictures
(``edgebig[vision]``) and the ``tokenizers`` library for text (``edgebig[text]``), both imported on first use.
"""
