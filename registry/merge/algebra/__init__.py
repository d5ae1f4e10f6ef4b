"""Adapters made out of adapters and of fine-tunes, in numpy alone.

``Factors`` are B A of one module, ``Rows`` a matrix that is given by blocks of rows, a
``Target`` says how much of either to keep. ``combine_specs`` and ``extract_lora`` write
a PEFT folder with an ``AdapterWriter`` and tell of each module what it cost.
"""
